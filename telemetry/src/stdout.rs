//! Standard output of a command: the one place that writes to it.
//!
//! A reader such as `head` may close the pipe at any time. That is not an error of the command: its work finishes, the
//! rest of its output is dropped, and the exit code stays the same. `println!` would panic.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Writes text to standard output; drops it if the reader has closed the pipe.
///
/// # Errors
/// If the output cannot be written for another reason, such as a full disk.
pub fn print(text: impl Display) -> io::Result<()> {
    write_text(&mut io::stdout().lock(), text)
}

/// Writes a line to standard output; drops it if the reader has closed the pipe.
///
/// # Errors
/// As [`print()`].
pub fn print_line(line: impl Display) -> io::Result<()> {
    print(format_args!("{line}\n"))
}

fn write_text(output: &mut impl Write, text: impl Display) -> io::Result<()> {
    match write!(output, "{text}").and_then(|()| output.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(io::Error::new(
            error.kind(),
            format!("cannot write to standard output: {error}; check its disk or terminal"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_for_a_closed_pipe_is_dropped() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        drop(reader);
        write_text(&mut writer, "text").expect("dropped");
    }

    #[test]
    fn another_failure_is_an_error_that_names_standard_output() {
        let error = write_text(&mut [0; 3].as_mut_slice(), "text").expect_err("too little space");
        assert!(error.to_string().contains("standard output"), "{error}");
    }
}
