//! What storage costs a month, by a table that the operator writes: prices differ by provider, region and contract.

use std::collections::BTreeMap;
use std::fmt;

use crate::storage::StorageClass;

/// Billionths of the table's currency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Price(pub u128);

/// How many of them are one.
const ONE: u128 = 1_000_000_000;

const GIB: u128 = 1 << 30;

impl Price {
    /// A decimal number, such as `0.023`; nothing for any other text, and for more than nine decimals.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str, most: usize| {
            let is_number =
                (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| text.parse::<u128>().ok()).flatten()
        };
        let (whole, parsed) = (digits(whole, 9)?, digits(decimals, 9)?);
        let scale = 10_u128.pow(9 - u32::try_from(decimals.len()).ok()?);
        Some(Self(whole * ONE + parsed * scale))
    }
}

/// With two decimals, rounded up: nobody is told that something is free that is not.
impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = self.0.div_ceil(ONE / 100);
        write!(f, "{}.{:02}", hundredths / 100, hundredths % 100)
    }
}

/// Prices of a GiB for a month.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PriceTable {
    /// In which currency, as it is shown.
    pub currency: String,
    /// By class.
    pub of_classes: BTreeMap<StorageClass, Price>,
}

impl PriceTable {
    /// What so many bytes cost in a month; nothing where the table has no price for the class.
    #[must_use]
    pub fn monthly(&self, class: &StorageClass, bytes: u64) -> Option<Price> {
        let price = self.of_classes.get(class)?;
        Some(Price(price.0.saturating_mul(bytes.into()) / GIB))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_decimal_numbers() {
        assert_eq!(Price::parse("0.023"), Some(Price(23_000_000)));
        assert_eq!(Price::parse("1"), Some(Price(ONE)));
        assert_eq!(Price::parse("0.000000001"), Some(Price(1)));
        for bad in ["", ".", "1.", ".5", "-1", "1e3", "0.0000000001", "1,5", "1234567890", "+1"] {
            assert_eq!(Price::parse(bad), None, "{bad}");
        }
        assert_eq!(Price::parse("12.5").unwrap().to_string(), "12.50");
        assert_eq!((Price(1).to_string(), Price(0).to_string()), ("0.01".into(), "0.00".into()));
    }

    #[test]
    fn a_month_is_bytes_by_the_price_of_a_gib() {
        let of_classes = BTreeMap::from([(StorageClass::Standard, Price::parse("0.023").unwrap())]);
        let table = PriceTable { currency: "USD".into(), of_classes };
        let tib = table.monthly(&StorageClass::Standard, 1 << 40).unwrap();
        assert_eq!(tib.to_string(), "23.56");
        assert_eq!(table.monthly(&StorageClass::Glacier, 1), None);
        assert!(table.monthly(&StorageClass::Standard, u64::MAX).is_some());
    }
}
