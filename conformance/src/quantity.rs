//! Quantities, as far as tests need their value.

use anyhow::Context as _;

use crate::Result;

/// The value in thousandths.
pub fn milli(text: &str) -> Result<i128> {
    let end =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{:0<3}", fraction.get(..3.min(fraction.len())).unwrap_or(""));
    let thousandths: i128 = digits.parse().with_context(|| format!("quantity {text:?}"))?;
    let power = |base: i128, n: u32| base.checked_pow(n).context("a quantity beyond all bounds");
    Ok(match suffix {
        "m" => thousandths / 1000,
        "" => thousandths,
        "k" => thousandths * 1000,
        "Ki" => thousandths * 1024,
        other => {
            let binary = other.ends_with('i');
            let n =
                "KMGTPE".find(other.get(..1).unwrap_or("?")).with_context(|| format!("quantity {text:?}"))?;
            thousandths * power(if binary { 1024 } else { 1000 }, n as u32 + 1)?
        }
    })
}

/// The value rounded up, as the downward API gives it with divisor 1.
pub fn whole(text: &str) -> Result<i128> {
    Ok((milli(text)? + 999).div_euclid(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for (text, want) in [
            ("1250m", 1250),
            ("2", 2000),
            ("0.5", 500),
            ("64Mi", 67_108_864_000),
            ("1k", 1_000_000),
            ("1.5Gi", 1_610_612_736_000),
        ] {
            assert_eq!(milli(text).unwrap(), want, "{text}");
        }
        assert_eq!(whole("1250m").unwrap(), 2);
        assert!(milli("x").is_err());
    }
}
