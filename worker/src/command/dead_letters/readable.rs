//! Text of a record for a terminal: control characters and bytes that are not UTF-8 are escaped. Pure.

/// Formats bytes as text. Line breaks and tabs stay; a backslash stays too, so the text is for reading, not for parsing.
#[must_use]
pub fn readable_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        push_readable(&mut text, chunk.valid(), |character| {
            matches!(character, '\n' | '\t')
        });
        chunk
            .invalid()
            .iter()
            .flat_map(|byte| std::ascii::escape_default(*byte))
            .for_each(|escaped| text.push(char::from(escaped)));
    }
    text
}

/// Formats a text as one line.
#[must_use]
pub fn readable_line(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    push_readable(&mut text, line, |_| false);
    text
}

fn push_readable(text: &mut String, part: &str, is_exempt: impl Fn(char) -> bool) {
    for character in part.chars() {
        if character.is_control() && !is_exempt(character) {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_and_other_bytes_are_escaped() {
        assert_eq!(
            readable_bytes("{\"имя\":\n\t\"Кира\"}".as_bytes()),
            "{\"имя\":\n\t\"Кира\"}"
        );
        assert_eq!(
            readable_bytes(b"a\x00\x1b[31m\xff\xfeb"),
            r"a\u{0}\u{1b}[31m\xff\xfeb"
        );
        assert_eq!(readable_bytes(b""), "");
    }

    #[test]
    fn a_line_has_no_line_break() {
        assert_eq!(readable_line("a\nb\u{9b}31m"), r"a\nb\u{9b}31m");
    }
}
