//! Pages of a listing: their size, and the opaque token that says where the next begins.

use std::fmt::Write;

use cellar_model::Refusal;

use crate::refusal::invalid;

/// Records of a page when the request does not say.
const DEFAULT_SIZE: usize = 100;
/// Records of one page, at most.
const MAX_SIZE: usize = 1000;

/// The requested page size, within bounds.
pub(crate) fn size(requested: u32) -> usize {
    match usize::try_from(requested) {
        Ok(0) => DEFAULT_SIZE,
        Ok(size) => size.min(MAX_SIZE),
        Err(_) => MAX_SIZE,
    }
}

/// A token for the position `text`. Hexadecimal, because callers must not build their own.
pub(crate) fn token(text: &str) -> String {
    text.bytes().fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The position that a token stands for; `None` for the first page.
pub(crate) fn position(token: &str) -> Result<Option<String>, Refusal> {
    if token.is_empty() {
        return Ok(None);
    }
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let bytes: Option<Vec<u8>> = (token.len() <= 400 && token.len().is_multiple_of(2))
        .then(|| {
            token.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
        })
        .flatten();
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).map(Some).ok_or_else(bad_token)
}

/// The token was not made by [`token`].
pub(crate) fn bad_token() -> Refusal {
    invalid("page_token", "the page token is not one of this service")
        .hint("begin with an empty one, then send the `next_page_token` of the page before")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_token_reads_back(text in ".{1,60}") {
            prop_assert_eq!(position(&token(&text)).unwrap(), Some(text));
        }

        #[test]
        fn no_token_makes_it_panic(token in ".{0,60}") {
            let _ = position(&token);
        }
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!((size(0), size(7), size(u32::MAX)), (100, 7, 1000));
    }
}
