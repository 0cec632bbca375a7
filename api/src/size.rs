//! Sizes as people write and read them: `10G` is 10 GiB, as disks have been counted since there were disks.

use std::fmt;
use std::str::FromStr;

/// The units from one byte up; each is 1024 of the one before.
const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// A number of bytes that parses from and prints as a human size.
///
/// Parsing takes a whole number and an optional unit `K`, `M`, `G`, `T` or `P` in either case, each optionally
/// followed by `iB` or `B`; all are powers of 1024. A bare number, or one followed by `B`, is bytes.
///
/// Printing rounds to one decimal: it is for people. In JSON a size is always plain bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Size(pub u64);

impl Size {
    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// The exact size in the largest unit that needs no fraction, in the form that parses: `10G`, `1536M`, `513`.
    pub fn exact(self) -> String {
        let mut value = self.0;
        let mut unit = 0;
        while value != 0 && value.is_multiple_of(1024) && unit + 1 < UNITS.len() {
            value /= 1024;
            unit += 1;
        }
        match unit {
            0 => value.to_string(),
            _ => format!("{value}{}", &UNITS[unit][..1]),
        }
    }
}

impl From<u64> for Size {
    fn from(bytes: u64) -> Size {
        Size(bytes)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        // In tenths and u128, so that nothing overflows and 1023.97 KiB moves up to 1.0 MiB instead of "1024.0 KiB".
        let mut unit = 1;
        let mut divisor = 1024u128;
        loop {
            let tenths = (u128::from(self.0) * 10 + divisor / 2) / divisor;
            if tenths < 10240 || unit + 1 == UNITS.len() {
                return f.pad(&format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]));
            }
            unit += 1;
            divisor *= 1024;
        }
    }
}

/// Why a text is not a size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseSizeError {
    text: String,
    what: &'static str,
}

impl fmt::Display for ParseSizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a size: {}", self.text, self.what)
    }
}

impl std::error::Error for ParseSizeError {}

impl FromStr for Size {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Size, ParseSizeError> {
        let fail = |what| Err(ParseSizeError { text: text.to_owned(), what });
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return match text.chars().next() {
                None => fail("it is empty"),
                Some('-') => fail("it is negative"),
                Some(_) => fail("it does not start with a digit (write for example 10G or 512M)"),
            };
        }
        if unit.starts_with(['.', ',']) {
            return fail("only whole numbers are taken (write 1536M instead of 1.5G)");
        }
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            "p" | "pb" | "pib" => 50,
            _ => return fail("the unit must be K, M, G, T or P (powers of 1024), or none for bytes"),
        };
        match number.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)) {
            Some(bytes) => Ok(Size(bytes)),
            None => fail("it is larger than 16 EiB"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<u64, String> {
        text.parse::<Size>().map(Size::bytes).map_err(|e| e.to_string())
    }

    #[test]
    fn parses_every_unit_in_every_spelling() {
        assert_eq!(parse("0"), Ok(0));
        assert_eq!(parse("513"), Ok(513));
        assert_eq!(parse("513B"), Ok(513));
        for (power, unit) in ["K", "M", "G", "T", "P"].iter().enumerate() {
            let expected = 7u64 << (10 * (power + 1));
            for suffix in ["", "B", "iB", "ib"] {
                assert_eq!(parse(&format!("7{unit}{suffix}")), Ok(expected), "7{unit}{suffix}");
                assert_eq!(parse(&format!("7{}{suffix}", unit.to_lowercase())), Ok(expected));
            }
        }
        assert_eq!(parse("18446744073709551615"), Ok(u64::MAX));
    }

    #[test]
    fn refuses_with_the_reason() {
        for (text, reason) in [
            ("", "it is empty"),
            ("-1G", "it is negative"),
            ("G", "it does not start with a digit"),
            (" 1G", "it does not start with a digit"),
            ("1.5G", "only whole numbers"),
            ("10 G", "the unit must be"),
            ("10X", "the unit must be"),
            ("10Gi", "the unit must be"),
            ("10G\0", "the unit must be"),
            ("16384P", "larger than 16 EiB"),
            ("18446744073709551616", "larger than 16 EiB"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(reason), "{text:?} gave {error:?}");
            assert!(error.contains("is not a size"), "{error}");
        }
    }

    #[test]
    fn prints_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (10 << 30, "10.0 GiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (64 << 40, "64.0 TiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!(format!("{:>10}|{:<9}|", Size(1024), Size(1)), "   1.0 KiB|1 B      |");
    }

    #[test]
    fn exact_form_parses_back() {
        for bytes in [0, 1, 513, 1024, 1 << 30, 3 << 29, (1 << 40) + 1, u64::MAX, 5 << 60] {
            assert_eq!(parse(&Size(bytes).exact()), Ok(bytes));
        }
        assert_eq!(Size(10 << 30).exact(), "10G");
        assert_eq!(Size(1536 << 20).exact(), "1536M");
    }
}
