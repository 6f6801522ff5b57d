//! How large payloads are: one size, or a distribution that the seed makes the same each time.
//!
//! | Written                       | Sizes                                                          |
//! |-------------------------------|----------------------------------------------------------------|
//! | `64`, `4k`                    | all the same                                                   |
//! | `uniform:64..4k`              | every size from the first to the last, equally often           |
//! | `lognormal:p50=512,p99=16k`   | half at most the one, 99 of 100 at most the other              |
//! | `lognormal:..,max=1m`         | the same; what would be larger is drawn again                  |
//! | `list:64*80,4k*20`            | these, as often as their weights say                           |
//! | `file:PATH`                   | those in the file, one per line, over and over                 |
//!
//! A distribution is drawn once, into a table. The size of a request is the table's entry at a
//! place that follows from connection and sequence: see [`SizeTable::size`].

use std::{fmt, fs, str::FromStr};

use rand_distr::{Distribution, LogNormal, Uniform, weighted::WeightedIndex};
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};

use crate::{payload::PAYLOAD_BYTES_MAX, units};

/// How many sizes of a distribution are drawn: enough that its p99 is one, and prime, so that no
/// round number of requests or connections repeats it.
const DRAWN_SIZES: usize = 16_381;
/// How many lines of a file are read.
const LINES_MAX: usize = 1 << 20;
/// How many places connections are apart in the table.
const PLACES_PER_CONNECTION: u64 = 7_919;
/// The standard normal distribution's quantile at 0.99.
const NORMAL_P99: f64 = 2.326_347_874_040_841;
/// Keeps the sizes apart from everything else that follows from the seed.
const SEED_MASK: u64 = 0x517A_E5C0_0B1E_5EED;

/// How large payloads are, without the length in front.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Sizes {
    /// All the same.
    Fixed(u32),
    /// Every size from `min` to `max`, both included, equally often.
    Uniform {
        /// The smallest.
        min: u32,
        /// The largest.
        max: u32,
    },
    /// The logarithm of the size is normally distributed.
    LogNormal {
        /// Half of the sizes are at most this.
        p50: u32,
        /// 99 of 100 are at most this.
        p99: u32,
        /// All are at most this. The distribution itself has no end: without this, one of some
        /// ten thousand is far above `p99`.
        max: u32,
    },
    /// Sizes with their weights.
    List(Vec<(u32, u32)>),
    /// The sizes of a file, in its order.
    File {
        /// The file.
        path: String,
        /// What stands in it.
        sizes: Vec<u32>,
    },
}

impl Sizes {
    /// The size, if there is only one.
    #[must_use]
    pub fn fixed(&self) -> Option<u32> {
        match self {
            Self::Fixed(bytes) => Some(*bytes),
            _ => None,
        }
    }

    /// Says what is wrong with them: a sentence without subject.
    pub(crate) fn problem(&self) -> Option<String> {
        let largest = match self {
            Self::Fixed(bytes) => *bytes,
            Self::Uniform { min, max } if min > max => {
                return Some(format!("goes from {min} to {max}; write the smaller one first"));
            }
            Self::Uniform { max, .. } => *max,
            Self::LogNormal { p50, p99, .. } if *p50 == 0 || p50 > p99 => {
                return Some(format!("has p50={p50} and p99={p99}; it must be 0 < p50 <= p99"));
            }
            Self::LogNormal { p99, max, .. } if p99 > max => {
                return Some(format!("has p99={p99} and max={max}; it must be p99 <= max"));
            }
            Self::LogNormal { max, .. } => *max,
            Self::List(list) if list.iter().all(|(_, weight)| *weight == 0) => {
                return Some("is a list without a weight above 0".to_owned());
            }
            Self::List(list) => list.iter().map(|(bytes, _)| *bytes).max().unwrap_or_default(),
            Self::File { path, sizes } if sizes.is_empty() => {
                return Some(format!("is a file without a size in it: {path}"));
            }
            Self::File { sizes, .. } => sizes.iter().copied().max().unwrap_or_default(),
        };
        (largest > PAYLOAD_BYTES_MAX)
            .then(|| format!("is {largest} bytes; it must be at most {PAYLOAD_BYTES_MAX}"))
    }

    fn draw(&self, seed: u64) -> Vec<u32> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed ^ SEED_MASK);
        let drawn = 0..DRAWN_SIZES;
        match self {
            Self::Fixed(bytes) => vec![*bytes],
            Self::Uniform { min, max } => {
                let sizes = Uniform::new_inclusive(*min, *max).expect("a checked range");
                drawn.map(|_| sizes.sample(&mut random)).collect()
            }
            Self::LogNormal { p50, p99, max } => {
                let (p50, p99) = (f64::from(*p50).ln(), f64::from(*p99).ln());
                let sizes = LogNormal::new(p50, (p99 - p50) / NORMAL_P99).expect("checked bounds");
                let sizes = sizes.sample_iter(&mut random).map(whole_bytes);
                sizes.filter(|size| size <= max).take(DRAWN_SIZES).collect()
            }
            Self::List(list) => {
                let weights = list.iter().map(|(_, weight)| *weight);
                let places = WeightedIndex::new(weights).expect("checked weights");
                drawn.map(|_| list[places.sample(&mut random)].0).collect()
            }
            Self::File { sizes, .. } => sizes.clone(),
        }
    }
}

impl From<u32> for Sizes {
    fn from(bytes: u32) -> Self {
        Self::Fixed(bytes)
    }
}

impl FromStr for Sizes {
    type Err = String;

    /// Reads what the table at the top says. The error is a sentence without subject.
    fn from_str(text: &str) -> Result<Self, String> {
        let Some((kind, rest)) = text.split_once(':') else {
            return size(text).map(Self::Fixed);
        };
        let malformed = |example: &str| format!("is `{text}`; write for example {example}");
        match kind {
            "uniform" => {
                let (min, max) =
                    rest.split_once("..").ok_or_else(|| malformed("uniform:64..4k"))?;
                Ok(Self::Uniform { min: size(min)?, max: size(max)? })
            }
            "lognormal" => {
                let parts: Vec<_> = rest.split(',').map(str::trim).collect();
                let (p50, p99, max, example) = match parts[..] {
                    [p50, p99] => (p50, p99, None, "lognormal:p50=512,p99=16k"),
                    [p50, p99, max] => (p50, p99, Some(max), "lognormal:p50=512,p99=16k,max=1m"),
                    _ => return Err(malformed("lognormal:p50=512,p99=16k")),
                };
                let value = |text: &str, name| {
                    size(text.strip_prefix(name).ok_or_else(|| malformed(example))?)
                };
                Ok(Self::LogNormal {
                    p50: value(p50, "p50=")?,
                    p99: value(p99, "p99=")?,
                    max: max.map_or(Ok(PAYLOAD_BYTES_MAX), |max| value(max, "max="))?,
                })
            }
            "list" => {
                let item = |text: &str| match text.split_once('*') {
                    None => Ok((size(text)?, 1)),
                    Some((bytes, weight)) => {
                        let weight = weight.trim().parse();
                        Ok((size(bytes)?, weight.map_err(|_| malformed("list:64*80,4k*20"))?))
                    }
                };
                rest.split(',').map(item).collect::<Result<_, _>>().map(Self::List)
            }
            "file" => read_file(rest),
            _ => Err(format!(
                "is `{text}`; write a size such as 64 or 4k, or uniform:64..4k, \
                 lognormal:p50=512,p99=16k, list:64*80,4k*20 or file:PATH"
            )),
        }
    }
}

impl fmt::Display for Sizes {
    /// Writes them so that they can be read again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(bytes) => write!(f, "{bytes}"),
            Self::Uniform { min, max } => write!(f, "uniform:{min}..{max}"),
            Self::LogNormal { p50, p99, max: PAYLOAD_BYTES_MAX } => {
                write!(f, "lognormal:p50={p50},p99={p99}")
            }
            Self::LogNormal { p50, p99, max } => {
                write!(f, "lognormal:p50={p50},p99={p99},max={max}")
            }
            Self::List(list) => {
                let items: Vec<_> =
                    list.iter().map(|(b, weight)| format!("{b}*{weight}")).collect();
                write!(f, "list:{}", items.join(","))
            }
            Self::File { path, .. } => write!(f, "file:{path}"),
        }
    }
}

/// The sizes of a run, drawn.
#[derive(Clone, Debug)]
pub(crate) struct SizeTable {
    sizes: Box<[u32]>,
}

impl SizeTable {
    /// Draws them. The same sizes and seed give the same table.
    pub(crate) fn new(sizes: &Sizes, seed: u64) -> Self {
        Self { sizes: sizes.draw(seed).into_boxed_slice() }
    }

    /// How large the payload of this request is.
    #[inline]
    pub(crate) fn size(&self, connection: u32, sequence: u64) -> u32 {
        let place = sequence + u64::from(connection) * PLACES_PER_CONNECTION;
        let place = place % self.sizes.len() as u64;
        self.sizes[usize::try_from(place).expect("a place in memory")]
    }

    /// The size, if there is only one.
    pub(crate) fn fixed(&self) -> Option<u32> {
        let (first, others) = self.sizes.split_first().expect("a checked table has a size");
        others.iter().all(|size| size == first).then_some(*first)
    }

    pub(crate) fn largest(&self) -> u32 {
        self.sizes.iter().copied().max().unwrap_or_default()
    }

    pub(crate) fn mean(&self) -> f64 {
        let sum: u64 = self.sizes.iter().copied().map(u64::from).sum();
        sum as f64 / self.sizes.len() as f64
    }
}

fn size(text: &str) -> Result<u32, String> {
    // What is too large for its type is too large for a plan, which knows the limit.
    units::parse_size(text).map(|size| u32::try_from(size).unwrap_or(u32::MAX))
}

fn whole_bytes(size: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "the limit is well within its type")]
    #[expect(clippy::cast_sign_loss, reason = "a size is not negative")]
    let bytes = size.round().clamp(0.0, f64::from(PAYLOAD_BYTES_MAX)) as u32;
    bytes
}

fn read_file(path: &str) -> Result<Sizes, String> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("cannot read {path}: {error}; check the path"))?;
    let lines = (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty());
    let mut sizes = Vec::new();
    for (number, line) in lines {
        if sizes.len() == LINES_MAX {
            return Err(format!("is too long: {path} has more than {LINES_MAX} sizes"));
        }
        sizes.push(size(line).map_err(|reason| format!("line {number} of {path} {reason}"))?);
    }
    Ok(Sizes::File { path: path.to_owned(), sizes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(text: &str) -> Sizes {
        text.parse().unwrap()
    }

    fn sorted(text: &str) -> Vec<u32> {
        let mut sizes = sizes(text).draw(1);
        sizes.sort_unstable();
        sizes
    }

    #[test]
    fn every_kind_is_read_and_written_back() {
        for text in [
            "64",
            "uniform:64..4096",
            "lognormal:p50=512,p99=16384",
            "lognormal:p50=512,p99=16384,max=65536",
            "list:64*80,4096*20",
        ] {
            assert_eq!(sizes(text).to_string(), text);
            assert_eq!(sizes(text).problem(), None);
        }
        assert_eq!(sizes("4k"), Sizes::Fixed(4096));
        assert_eq!(sizes("list:1,2"), Sizes::List(vec![(1, 1), (2, 1)]));
    }

    #[test]
    fn what_is_no_size_says_what_would_be() {
        for text in [
            "x",
            "uniform:3",
            "lognormal:512,16k",
            "lognormal:p50=1,p99=2,min=3",
            "lognormal:p50=1,p99=2,max=3,max=4",
            "list:a*b",
            "list:",
            "zipf:3",
        ] {
            let error = text.parse::<Sizes>().unwrap_err();
            assert!(error.contains("write"), "{error}");
        }
        for text in [
            "uniform:9..3",
            "lognormal:p50=0,p99=1",
            "lognormal:p50=9,p99=1",
            "lognormal:p50=1,p99=9,max=8",
            "lognormal:p50=1,p99=9,max=2g",
            "list:1*0",
        ] {
            assert!(sizes(text).problem().is_some(), "{text}");
        }
        assert!(Sizes::Fixed(u32::MAX).problem().is_some());
    }

    #[test]
    fn a_uniform_distribution_reaches_from_end_to_end() {
        let sizes = sorted("uniform:10..20");
        assert_eq!((sizes[0], sizes[sizes.len() - 1]), (10, 20));
        assert!(sizes[sizes.len() / 2].abs_diff(15) <= 1);
    }

    #[test]
    fn a_lognormal_distribution_has_the_percentiles_that_were_asked_for() {
        let sizes = sorted("lognormal:p50=512,p99=16k");
        let (p50, p99) = (sizes[sizes.len() / 2], sizes[sizes.len() * 99 / 100]);
        assert!(p50.abs_diff(512) < 40, "{p50}");
        assert!(p99.abs_diff(16_384) < 3_000, "{p99}");
    }

    #[test]
    fn a_lognormal_distribution_ends_where_it_is_told_to() {
        let (open, closed) = ("lognormal:p50=512,p99=16k", "lognormal:p50=512,p99=16k,max=20k");
        assert!(*sorted(open).last().unwrap() > 20 << 10);
        let sizes = sorted(closed);
        assert_eq!(sizes.len(), DRAWN_SIZES);
        assert!((16 << 10..=20 << 10).contains(sizes.last().unwrap()), "{:?}", sizes.last());
    }

    #[test]
    fn a_list_is_drawn_as_often_as_its_weights_say() {
        let drawn = sorted("list:64*80,4k*20");
        let small = drawn.iter().filter(|&&size| size == 64).count();
        assert!((small * 100 / drawn.len()).abs_diff(80) <= 2);
    }

    #[test]
    fn a_file_is_taken_in_its_order_and_a_bad_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sizes");
        fs::write(&path, "64\n\n 4k \n0\n").unwrap();
        let table = SizeTable::new(&sizes(&format!("file:{}", path.display())), 1);
        assert_eq!([0, 1, 2, 3].map(|sequence| table.size(0, sequence)), [64, 4096, 0, 64]);
        fs::write(&path, "64\nbig\n").unwrap();
        let error = format!("file:{}", path.display()).parse::<Sizes>().unwrap_err();
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn one_seed_draws_the_same_and_another_does_not() {
        let draw = |seed| sizes("uniform:0..1m").draw(seed);
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
