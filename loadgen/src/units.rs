//! Sizes, times and counts, as people write and read them.
//!
//! | Written             | Means                                     |
//! |---------------------|-------------------------------------------|
//! | `64`, `4k`, `1MiB`  | bytes; every unit is a power of 1,024     |
//! | `500`, `20k`, `1M`  | counts and rates; powers of 1,000         |
//! | `500ms`, `10s`      | a time, as `humantime` reads it           |

use std::time::Duration;

/// Reads a size such as `0`, `64`, `4k` or `1MiB`.
///
/// # Errors
///
/// A sentence without subject ("is not a size: ...") if the text is no size or does not fit 64
/// bits.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(not_a_size(text)),
    };
    let number: u64 = number.parse().map_err(|_| not_a_size(text))?;
    number.checked_mul(1 << shift).ok_or_else(|| not_a_size(text))
}

/// Reads a number of requests per second such as `500`, `20k` or `1.5M`. Units are powers of 1,000.
///
/// # Errors
///
/// A sentence without subject if the text is no rate.
pub(crate) fn parse_rate(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let number = text.trim_end_matches(|last: char| last.is_ascii_alphabetic());
    let factor = match text[number.len()..].to_ascii_lowercase().as_str() {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        _ => f64::NAN,
    };
    let rate = number.parse().unwrap_or(f64::NAN) * factor;
    if rate.is_finite() {
        return Ok(rate);
    }
    Err(format!("is not a rate: `{text}`; write for example 500, 20k or 1.5M requests per second"))
}

/// Reads a whole number such as `500`, `20k` or `1e6`. Units are powers of 1,000.
///
/// # Errors
///
/// A sentence without subject if the text is no whole number.
pub(crate) fn parse_count(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if let Ok(count) = text.parse() {
        return Ok(count);
    }
    let rounded = parse_rate(text).ok().filter(|count| *count >= 0.0 && count.fract() == 0.0);
    rounded
        .map(whole)
        .ok_or_else(|| format!("is not a whole number: `{text}`; write for example 500, 20k or 1M"))
}

/// Reads a time such as `500ms`, `10s` or `1m 30s`.
///
/// # Errors
///
/// A sentence without subject if the text is no time.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim())
        .map_err(|_| format!("is not a time: `{text}`; write for example 500ms, 10s or 1m"))
}

/// The whole part of a number, or the nearest whole number that there is.
#[expect(clippy::cast_possible_truncation, reason = "a cast saturates, as this does")]
pub(crate) fn whole(number: f64) -> u64 {
    number as u64
}

/// Writes a whole number with a comma between groups of three digits.
pub(crate) fn grouped(number: u64) -> String {
    group(&number.to_string())
}

/// Writes a rate as a whole number, with a comma between groups of three digits. Of a small one two
/// digits are shown, so that only nothing is `0`.
pub(crate) fn rate(per_second: f64) -> String {
    let digits = match per_second.abs() {
        0.1..10.0 => 1 + usize::from(per_second.abs() < 1.0),
        number if number > 0.0 && number < 0.1 => 1 + leading_zeros(number),
        _ => return group(&format!("{per_second:.0}")),
    };
    let text = format!("{per_second:.digits$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// How many zeros a fraction begins with, that before the point included.
fn leading_zeros(fraction: f64) -> usize {
    usize::try_from(whole(-fraction.log10().floor())).unwrap_or(usize::MAX)
}

fn group(digits: &str) -> String {
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes nanoseconds with three significant digits in the unit that suits: `812 ns`, `45.3 us`,
/// `1.20 s`.
pub(crate) fn time(nanos: u64) -> String {
    match nanos {
        0..1_000 => format!("{nanos} ns"),
        1_000..1_000_000 => three_digits(nanos as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => three_digits(nanos as f64 / 1e6, "ms"),
        _ => three_digits(nanos as f64 / 1e9, "s"),
    }
}

/// The same of nanoseconds that are the result of a calculation.
pub(crate) fn time_of_nanos(nanos: f64) -> String {
    time_of(Duration::try_from_secs_f64(nanos / 1e9).unwrap_or(Duration::MAX))
}

/// The same of a [`Duration`].
pub(crate) fn time_of(time: Duration) -> String {
    self::time(nanos(time))
}

/// A [`Duration`] in nanoseconds, or the most that there can be.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Writes microseconds that are CPU time of one request.
pub(crate) fn micros(micros: f64) -> String {
    format!("{micros:.3} us")
}

/// Writes a number of bytes in the unit that suits: `512 B`, `64.0 KiB`, `1.50 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..0x400 => format!("{count} B"),
        0x400..0x10_0000 => three_digits(count as f64 / 1024.0, "KiB"),
        0x10_0000..0x4000_0000 => three_digits(count as f64 / 1_048_576.0, "MiB"),
        _ => three_digits(count as f64 / 1_073_741_824.0, "GiB"),
    }
}

fn three_digits(number: f64, unit: &str) -> String {
    match number {
        ..10.0 => format!("{number:.2} {unit}"),
        10.0..100.0 => format!("{number:.1} {unit}"),
        _ => format!("{number:.0} {unit}"),
    }
}

fn not_a_size(text: &str) -> String {
    format!("is not a size: `{text}`; write for example 0, 64, 4k or 1MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_size_are_powers_of_1024() {
        for (text, size) in [
            ("0", 0),
            ("64", 64),
            ("64b", 64),
            ("4k", 4096),
            ("4K", 4096),
            ("4 KiB", 4096),
            ("1MiB", 1 << 20),
            ("2g", 2 << 30),
        ] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in
            ["", "k", "-1", "1.5k", "4kk", "4x", "99999999999999999999", "18446744073709551615k"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn units_of_rate_are_powers_of_1000() {
        for (text, rate) in [("1", 1.0), ("20k", 20_000.0), ("1.5M", 1_500_000.0), (" 3 ", 3.0)] {
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
        for text in ["", "k", "1kk", "2x", "inf", "nan", "1e999"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_have_the_units_of_rates_and_are_whole() {
        for (text, count) in [
            ("0", 0),
            ("10k", 10_000),
            ("1e6", 1_000_000),
            ("1.5M", 1_500_000),
            ("18446744073709551615", u64::MAX),
            ("99999999999999999999", u64::MAX),
        ] {
            assert_eq!(parse_count(text), Ok(count), "{text}");
        }
        for text in ["", "k", "-3", "1.5", "0.1k2", "ten", "inf"] {
            assert!(parse_count(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_carry_a_unit() {
        assert_eq!(parse_time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_time("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_time("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(parse_time("10").is_err());
        assert!(parse_time("soon").is_err());
    }

    #[test]
    fn digits_are_grouped_by_three() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
        assert_eq!(rate(999_999.7), "1,000,000");
    }

    #[test]
    fn only_a_rate_of_nothing_is_written_as_0() {
        for (per_second, text) in [
            (0.0, "0"),
            (1.0 / 86_400.0, "0.000012"),
            (0.05, "0.05"),
            (0.25, "0.25"),
            (0.5, "0.5"),
            (1.0, "1"),
            (1.5, "1.5"),
            (10.4, "10"),
        ] {
            assert_eq!(rate(per_second), text);
        }
    }

    #[test]
    fn times_and_sizes_show_three_digits() {
        assert_eq!(time(812), "812 ns");
        assert_eq!(time(45_300), "45.3 us");
        assert_eq!(time(1_200_000_000), "1.20 s");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(65_536), "64.0 KiB");
        assert_eq!(bytes(3 << 19), "1.50 MiB");
    }
}
