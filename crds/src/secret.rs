//! Text of a Secret's keys, as operator and worker read it.

/// Byte order mark, which editors write at the start of a text.
pub(crate) const BYTE_ORDER_MARK: char = '\u{feff}';

/// Key of a Secret with which its owner permits a password in clear text on a connection without TLS: `true`.
pub const ALLOW_PLAINTEXT: &str = "allow.plaintext";

/// Returns true if the value of [`ALLOW_PLAINTEXT`] permits a password in clear text.
#[must_use]
pub fn permits_plaintext(value: Option<&str>) -> bool {
    value == Some("true")
}

/// Returns the value of a key: without a byte order mark at its start and without line breaks at its end.
#[must_use]
pub fn key_value(text: &str) -> &str {
    text.strip_prefix(BYTE_ORDER_MARK)
        .unwrap_or(text)
        .trim_end_matches(['\r', '\n'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_line_breaks_that_editors_add_are_not_part_of_a_value() {
        for text in ["p w", "p w\n", "p w\r\n\n", "\u{feff}p w\n"] {
            assert_eq!(key_value(text), "p w", "{text:?}");
        }
        assert_eq!(key_value(" p\u{feff} "), " p\u{feff} ");
    }
}
