//! The token that actions need.
//!
//! Invariant: it is in no log and no error, and comparing it takes a time that tells nothing of it.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use subtle::ConstantTimeEq;

/// A shorter one could be guessed.
const LEN_MIN: usize = 16;
/// What a header line has room for.
const LEN_MAX: usize = 1024;
/// What those who are neither owner nor of the group may do with a file.
const OTHERS: u32 = 0o007;

/// A token.
pub(super) struct Token(Vec<u8>);

impl Token {
    /// Reads it: the file's text without white space around it.
    ///
    /// # Errors
    /// When the file cannot be read, others can, or what is in it is no token; names the file and what to do.
    pub(super) fn read(path: &Path) -> Result<Token> {
        let shown = path.display();
        let mut file = File::open(path).with_context(|| {
            format!("--admin-token-file {shown}: it must be a file that the server's user (-u) may read")
        })?;
        let mode = file.metadata().with_context(|| format!("--admin-token-file {shown}"))?.mode();
        if mode & OTHERS != 0 {
            bail!(
                "--admin-token-file {shown}: others may read or write it (mode {:o}): chmod o= {shown}",
                mode & 0o777
            );
        }
        let mut text = Vec::new();
        file.by_ref()
            .take(LEN_MAX as u64 + 64)
            .read_to_end(&mut text)
            .with_context(|| format!("--admin-token-file {shown}: it cannot be read"))?;
        Token::of(text.trim_ascii())
            .with_context(|| format!("--admin-token-file {shown}: make one with `openssl rand -hex 32`, for example"))
    }

    fn of(text: &[u8]) -> Result<Token> {
        if !(LEN_MIN..=LEN_MAX).contains(&text.len()) || !text.iter().all(u8::is_ascii_graphic) {
            bail!("a token is {LEN_MIN} to {LEN_MAX} ASCII characters without spaces");
        }
        Ok(Token(text.to_vec()))
    }

    /// Whether this is the value of an `Authorization` header with the token.
    pub(super) fn is_in(&self, authorization: &[u8]) -> bool {
        let Some((scheme, given)) = authorization.split_at_checked("Bearer ".len()) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(self.0.ct_eq(given.trim_ascii()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_taken() {
        let token = Token::of(b"0123456789abcdef").unwrap();
        assert!(token.is_in(b"Bearer 0123456789abcdef") && token.is_in(b"bearer 0123456789abcdef"));
        for wrong in ["", "Bearer", "Bearer ", "0123456789abcdef", "Basic 0123456789abcdef", "Bearer 0123456789abcdeF"]
        {
            assert!(!token.is_in(wrong.as_bytes()), "{wrong}");
        }
        assert!(!token.is_in(b"Bearer 0123456789abcde") && !token.is_in(b"Bearer 0123456789abcdef0"));
    }

    #[test]
    fn what_is_too_short_or_has_spaces_is_no_token() {
        for text in ["", "short", "0123456789 abcdef", "0123456789\u{e4}abcdef"] {
            assert!(Token::of(text.as_bytes()).is_err(), "{text}");
        }
    }
}
