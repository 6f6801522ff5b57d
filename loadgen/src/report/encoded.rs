//! A histogram as text: HdrHistogram's V2 format, deflated, in base64. It is what interval logs
//! hold, so other tools read it too.
//!
//! A distribution that is decoded takes some hundred kilobytes, its text a few. So a document keeps
//! the text and decodes one at a time.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::STANDARD};
use hdrhistogram::{
    Histogram,
    serialization::{Deserializer, Serializer, V2DeflateSerializer},
};
use serde::{Deserialize, Serialize, de};

use crate::measure::latency::Latency;

/// The text of a histogram that is known to be one.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Encoded(String);

/// In closed loop nothing is late: every interval has one that is empty.
static EMPTY: LazyLock<Encoded> = LazyLock::new(|| Encoded::of(&Latency::default().histogram()));

impl Encoded {
    pub(crate) fn of_latency(latency: &Latency) -> Self {
        match latency.count() {
            0 => EMPTY.clone(),
            _ => Self::of(&latency.histogram()),
        }
    }

    fn of(histogram: &Histogram<u64>) -> Self {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(histogram, &mut bytes)
            .expect("a vector takes everything");
        Self(STANDARD.encode(bytes))
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == *EMPTY || self.decode().is_empty()
    }

    pub(crate) fn decode(&self) -> Histogram<u64> {
        decode(&self.0).expect("it was decoded before it was accepted")
    }
}

impl Default for Encoded {
    /// Nothing.
    fn default() -> Self {
        EMPTY.clone()
    }
}

impl<'de> Deserialize<'de> for Encoded {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        decode(&text).map_err(de::Error::custom)?;
        Ok(Self(text))
    }
}

fn decode(text: &str) -> Result<Histogram<u64>, String> {
    let bytes =
        STANDARD.decode(text).map_err(|error| format!("a histogram is damaged: {error}"))?;
    let mut histogram = Deserializer::new()
        .deserialize(&mut bytes.as_slice())
        .map_err(|error| format!("a histogram is damaged: {error}"))?;
    // Other tools may have written some that hold longer times than others: a sum holds them all.
    histogram.auto(true);
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_decoded_is_what_was_encoded() {
        let mut histogram = Histogram::new_with_bounds(1, 3_600_000_000_000, 3).unwrap();
        for value in [1, 900, 54_321, 1_000_000_007] {
            histogram.record_n(value, value % 13 + 1).unwrap();
        }
        assert_eq!(Encoded::of(&histogram).decode(), histogram);
    }

    #[test]
    fn nothing_is_encoded_as_nothing() {
        let nothing = Latency::default();
        assert_eq!(Encoded::of_latency(&nothing), Encoded::of(&nothing.histogram()));
        assert!(Encoded::of_latency(&nothing).is_empty());
    }

    #[test]
    fn a_sum_takes_longer_times_than_its_first_part() {
        let encoded = |longest, value| {
            let mut histogram = Histogram::new_with_bounds(1, longest, 3).unwrap();
            histogram.record(value).unwrap();
            Encoded::of(&histogram)
        };
        let mut sum = encoded(1_000, 900).decode();
        sum.add(encoded(3_600_000_000_000, 1_000_000_000).decode()).unwrap();
        assert_eq!(sum.len(), 2);
        assert!(sum.max() >= 1_000_000_000);
    }

    #[test]
    fn damaged_text_is_refused() {
        for text in ["\"\"", "\"AAAA\"", "\"not base64\"", "7"] {
            assert!(serde_json::from_str::<Encoded>(text).is_err(), "{text}");
        }
    }
}
