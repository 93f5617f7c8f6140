//! `IntOrString`: a number, or text that may be a percentage.

use serde_json::Value;

/// Which way a percentage of a total is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Towards the larger number.
    Up,
    /// Towards the smaller number.
    Down,
}

/// The percentage in `25%`.
///
/// # Errors
/// Text that is no percentage, with upstream's words.
pub fn percent(text: &str) -> Result<i64, String> {
    let Some(number) = text.strip_suffix('%') else {
        return Err("invalid type: string is not a percentage".to_string());
    };
    number
        .parse()
        .map_err(|_| format!("invalid value \"{text}\": strconv.Atoi: parsing \"{number}\": invalid syntax"))
}

/// The number meant by an IntOrString out of `total`.
///
/// # Errors
/// A string that is no percentage, or another type.
pub fn scaled(value: &Value, total: i64, rounding: Rounding) -> Result<i64, String> {
    if let Some(n) = value.as_i64() {
        return Ok(n);
    }
    let Some(text) = value.as_str() else {
        return Err("invalid value for IntOrString: invalid type: neither int nor percentage".to_string());
    };
    let p = percent(text).map_err(|e| format!("invalid value for IntOrString: {e}"))?;
    let product = p.saturating_mul(total);
    Ok(match rounding {
        Rounding::Up => product.div_euclid(100) + i64::from(product.rem_euclid(100) != 0),
        Rounding::Down => product.div_euclid(100),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling() {
        let table = [
            (Value::from(3), 10, Rounding::Up, Ok(3)),
            (Value::from("25%"), 10, Rounding::Up, Ok(3)),
            (Value::from("25%"), 10, Rounding::Down, Ok(2)),
            (Value::from("0%"), 10, Rounding::Up, Ok(0)),
            (Value::from("100%"), 7, Rounding::Down, Ok(7)),
        ];
        for (v, total, r, want) in table {
            assert_eq!(scaled(&v, total, r), want);
        }
        assert_eq!(
            scaled(&Value::from("x"), 1, Rounding::Up).unwrap_err(),
            "invalid value for IntOrString: invalid type: string is not a percentage"
        );
    }
}
