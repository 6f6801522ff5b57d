//! `Size`: bytes, as people write and read them.

use std::{fmt, str::FromStr};

/// A number of bytes that is written like `64k` or `1MiB`.
///
/// Every unit is a power of 1,024, with or without an `i`. Displayed exactly, in the largest unit
/// that divides it.
///
/// ```
/// # use arena_echo::Size;
/// let size: Size = "64k".parse()?;
/// assert_eq!(size, Size(65_536));
/// assert_eq!(size.to_string(), "64KiB");
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Size(pub usize);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = parse_size::Config::new().with_binary().parse_size(text).ok();
        bytes
            .and_then(|bytes| usize::try_from(bytes).ok())
            .map(Self)
            .ok_or_else(|| "is not a size; write for example 65536, 64k or 1MiB".to_owned())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        let unit = units.iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
        match unit {
            Some((shift, name)) => write!(f, "{}{name}", bytes >> shift),
            None => write!(f, "{bytes}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        let cases = [
            ("0", 0),
            ("64", 64),
            ("64b", 64),
            ("64k", 65_536),
            ("1MB", 1 << 20),
            ("2 GiB", 2 << 30),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "k", "-1", "4kk", "lots", "99999999999999999999"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_divides_them() {
        let cases =
            [(0, "0"), (1000, "1000"), (1536, "1536"), (3 << 10, "3KiB"), (1 << 30, "1GiB")];
        for (bytes, text) in cases {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(bytes: usize) {
            prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
    }
}
