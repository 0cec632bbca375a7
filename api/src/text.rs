//! How long free texts may be, and what they may hold.

/// Characters of the longest description.
pub const MAX_DESCRIPTION_CHARS: usize = 1024;
/// Characters of the longest reason.
pub const MAX_REASON_CHARS: usize = 256;
/// Characters of the longest word for an image's system.
pub const MAX_OS_TYPE_CHARS: usize = 64;
/// Characters of the longest name of a file.
pub const MAX_FILE_NAME_CHARS: usize = 255;
/// Characters of the longest text that names a backup.
pub const MAX_BACKUP_CHARS: usize = 128;
/// Characters of the longest client token.
pub const MAX_TOKEN_CHARS: usize = 64;
/// Characters of the longest path.
pub const MAX_PATH_CHARS: usize = 4095;
/// Characters of the longest text that is searched for.
pub const MAX_SEARCH_CHARS: usize = 256;

/// Characters of the longest list of what to sort by.
pub const MAX_SORT_CHARS: usize = 256;

/// Checks that a text is one line of up to `most` characters; `what` begins the sentence that says what is wrong.
///
/// # Errors
/// That sentence.
pub fn check_line(what: &str, text: &str, most: usize) -> Result<(), String> {
    let chars = text.chars().count();
    if chars > most {
        return Err(format!("{what} can have at most {most} characters, this one has {chars}"));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(wrong) => Err(format!("{what} is one line of text and cannot hold {wrong:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_counted_in_characters() {
        assert_eq!(check_line("a reason", &"ä".repeat(256), MAX_REASON_CHARS), Ok(()));
        let error = check_line("a reason", &"x".repeat(257), MAX_REASON_CHARS).expect_err("too long");
        assert_eq!(error, "a reason can have at most 256 characters, this one has 257");
        let error = check_line("a reason", "a\tb", MAX_REASON_CHARS).expect_err("two fields");
        assert_eq!(error, "a reason is one line of text and cannot hold '\\t'");
    }
}
