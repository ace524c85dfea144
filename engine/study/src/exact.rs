//! Floats in records: in text they are written so that they read back bit by bit, NaN and infinities too.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A float that survives any codec.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exact(pub(crate) f64);

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(&format_args!("{:?}", self.0))
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
            text.parse().map(Self).map_err(D::Error::custom)
        } else {
            f64::deserialize(deserializer).map(Self)
        }
    }
}

/// For one float: `#[serde(with = "exact::one")]`.
pub(crate) mod one {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(x: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        Exact(*x).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
        Exact::deserialize(d).map(|it| it.0)
    }
}

/// For floats with names, in their order: `#[serde(with = "exact::named")]`.
pub(crate) mod named {
    use std::sync::Arc;

    use super::*;

    type Named = Vec<(Arc<str>, f64)>;

    pub(crate) fn serialize<S: Serializer>(
        items: &Named,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let items = items.iter().map(|(name, x)| (&**name, Exact(*x)));
        serializer.collect_seq(items)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Named, D::Error> {
        let items = Vec::<(String, Exact)>::deserialize(d)?;
        Ok(items
            .into_iter()
            .map(|(name, x)| (name.into(), x.0))
            .collect())
    }
}

/// For a list of floats: `#[serde(with = "exact::list")]`.
pub(crate) mod list {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        items: &[f64],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(items.iter().map(|x| Exact(*x)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<f64>, D::Error> {
        let items = Vec::<Exact>::deserialize(d)?;
        Ok(items.into_iter().map(|it| it.0).collect())
    }
}
