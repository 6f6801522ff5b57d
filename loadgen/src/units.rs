//! Sizes, times and counts, as people write and read them.
//!
//! | Written             | Means                                     |
//! |---------------------|-------------------------------------------|
//! | `64`, `4k`, `1MiB`  | bytes; every unit is a power of 1,024     |
//! | `500`, `20k`, `1M`  | counts and rates; powers of 1,000         |
//! | `500ms`, `10s`      | a time, as `humantime` reads it           |

use std::time::Duration;

/// No text has more digits behind the point than it needs, and these.
const DIGITS_MAX: usize = 9;

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
    rate_to(per_second, 0)
}

/// The same with as many digits as it takes not to look like `other`, if it is not equal.
pub(crate) fn rate_beside(per_second: f64, other: f64) -> String {
    unlike(per_second == other, |digits| [per_second, other].map(|rate| rate_to(rate, digits)))
}

/// The same with every digit: what people have asked for.
pub(crate) fn exact_rate(per_second: f64) -> String {
    let text = per_second.to_string();
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    group(whole) + fraction
}

/// A rate with so many digits more than it needs.
fn rate_to(per_second: f64, more: usize) -> String {
    let digits = more
        + match per_second.abs() {
            0.1..10.0 => 1 + usize::from(per_second.abs() < 1.0),
            number if number > 0.0 && number < 0.1 => 1 + leading_zeros(number),
            _ => 0,
        };
    let text = format!("{per_second:.digits$}");
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    group(whole) + fraction.trim_end_matches('0').trim_end_matches('.')
}

/// The first of two texts with the least digits with which they differ, unless they stand for the
/// same.
fn unlike(are_equal: bool, texts: impl Fn(usize) -> [String; 2]) -> String {
    let differ = |[one, other]: &[String; 2]| are_equal || one != other;
    let [text, _] = (0..DIGITS_MAX).map(&texts).find(differ).unwrap_or_else(|| texts(DIGITS_MAX));
    text
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
    time_to(nanos, 0)
}

/// The same with as many digits as it takes not to look like `other`, if it is not equal.
pub(crate) fn time_beside(time: Duration, other: Duration) -> String {
    unlike(time == other, |digits| [time, other].map(|time| time_to(nanos(time), digits)))
}

/// The same of nanoseconds that are the result of a calculation.
pub(crate) fn time_of_nanos_beside(time: f64, other: f64) -> String {
    let [time, other] = [time, other]
        .map(|nanos| Duration::try_from_secs_f64(nanos / 1e9).unwrap_or(Duration::MAX));
    time_beside(time, other)
}

/// A time with so many digits more than three.
fn time_to(nanos: u64, more: usize) -> String {
    match nanos {
        0..1_000 => format!("{nanos} ns"),
        _ => scaled(nanos as f64, more, 1e3, &["us", "ms", "s"]),
    }
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
        _ => scaled(count as f64, 0, 1024.0, &["KiB", "MiB", "GiB"]),
    }
}

/// The same, and the number itself where that is rounded: for sizes that are compared with limits.
pub(crate) fn exact_bytes(count: u64) -> String {
    // What three digits show exactly is a whole number of hundredths of its unit.
    let is_exact = [10_u32, 20, 30].into_iter().any(|shift| {
        let shown = bytes(count);
        let number: Option<f64> = shown.split(' ').next().and_then(|text| text.parse().ok());
        number.is_some_and(|number| number * f64::from(1_u32 << shift) == count as f64)
    });
    match count < 0x400 || is_exact {
        true => bytes(count),
        false => format!("{}, {} B", bytes(count), grouped(count)),
    }
}

/// A number with three significant digits, and so many more, in the first of these units, each
/// `base` times the one before, in which it has no more digits than that before the point.
fn scaled(mut number: f64, more: usize, base: f64, units: &[&str]) -> String {
    let written = |number: f64| {
        let digits = more
            + match number {
                ..9.995 => 2,
                9.995..99.95 => 1,
                _ => 0,
            };
        format!("{number:.digits$}")
    };
    let (last, others) = units.split_last().expect("there are units");
    for unit in others {
        number /= base;
        let text = written(number);
        if text.parse().is_ok_and(|rounded: f64| rounded < base) {
            return format!("{text} {unit}");
        }
    }
    format!("{} {last}", written(number / base))
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
    fn what_differs_from_a_limit_does_not_look_like_it() {
        assert_eq!(rate_beside(999.59, 1_000.0), "999.6");
        assert_eq!(rate_beside(1_000.000_4, 1_000.0), "1,000.0004");
        assert_eq!(rate_beside(1_234.0, 1_000.0), "1,234");
        assert_eq!(rate_beside(1_000.0, 1_000.0), "1,000");
        assert_eq!(time_of_nanos_beside(999_700.0, 1e6), "999.7 us");
        assert_eq!(time_of_nanos_beside(1_000_300.0, 1e6), "1.0003 ms");
        assert_eq!(time_of_nanos_beside(1e6, 1e6), "1.00 ms");
        let [one, other] = [999_999_999, 1_000_000_000].map(Duration::from_nanos);
        assert_eq!(time_beside(one, other), "999.999999 ms");
        assert_eq!(exact_bytes(1_048_580), "1.00 MiB, 1,048,580 B");
        assert_eq!(exact_bytes(1 << 20), "1.00 MiB");
        assert_eq!(exact_bytes(1_000), "1000 B");
        assert_eq!(exact_bytes(1_500), "1.46 KiB, 1,500 B");
        assert_eq!(exact_bytes(64 << 10), "64.0 KiB");
        assert_eq!(exact_rate(1_234.5), "1,234.5");
        assert_eq!(exact_rate(20_000.0), "20,000");
    }

    #[test]
    fn rounding_carries_into_the_next_unit() {
        assert_eq!(time(999_499), "999 us");
        assert_eq!(time(999_500), "1.00 ms");
        assert_eq!(time(9_999), "10.0 us");
        assert_eq!(time(99_999), "100 us");
        assert_eq!(time(999_999_999), "1.00 s");
        assert_eq!(bytes((1 << 20) - 1), "1.00 MiB");
        assert_eq!(bytes(1_000 << 10), "1000 KiB");
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
