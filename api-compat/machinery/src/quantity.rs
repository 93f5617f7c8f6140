//! `resource.Quantity`: fixed-point numbers with a suffix (`100m`, `1536Mi`, `12e6`).
//!
//! A value is kept in billionths, which is the finest step the API knows.

use std::cmp::Ordering;
use std::fmt;

const NANO: i128 = 1_000_000_000;
/// What `Quantity` texts must look like.
pub const FORMAT_ERROR: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
const NUMERIC_ERROR: &str = "unable to parse numeric part of quantity";
const SUFFIX_ERROR: &str = "unable to parse quantity's suffix";

/// The family of suffixes a quantity is written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySi,
    /// `12M`
    #[default]
    DecimalSi,
}

/// A quantity. Comparison is by value; the written form is canonical.
#[derive(Debug, Clone, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
    /// Text that is already canonical enough to be kept, as upstream keeps it.
    text: Option<String>,
}

struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

fn split(text: &str) -> Result<Parts<'_>, String> {
    if !text.is_ascii() {
        return Err(FORMAT_ERROR.to_string());
    }
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let negative = text.starts_with('-');
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let rest = unsigned.trim_start_matches('0');
    if rest.is_empty() {
        return Ok(Parts { negative, whole: "0", fraction: "", suffix: "" });
    }
    let n = digits(rest);
    let (whole, mut rest) = rest.split_at(n);
    let mut fraction = "";
    if let Some(after) = rest.strip_prefix('.') {
        let n = digits(after);
        (fraction, rest) = after.split_at(n);
    }
    let letters = rest.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    let mut end = letters;
    if rest.as_bytes().get(end).is_some_and(|b| *b == b'-' || *b == b'+') {
        end += 1;
    }
    end += digits(&rest[end..]);
    if end != rest.len() {
        return Err(FORMAT_ERROR.to_string());
    }
    Ok(Parts { negative, whole: if whole.is_empty() { "0" } else { whole }, fraction, suffix: rest })
}

/// Base, exponent and format of a suffix.
fn suffix_meaning(suffix: &str) -> Option<(u32, i32, Format)> {
    let si = |e| Some((10, e, Format::DecimalSi));
    let bin = |e| Some((2, e, Format::BinarySi));
    match suffix {
        "" => si(0),
        "n" => si(-9),
        "u" => si(-6),
        "m" => si(-3),
        "k" => si(3),
        "M" => si(6),
        "G" => si(9),
        "T" => si(12),
        "P" => si(15),
        "E" => si(18),
        "Ki" => bin(10),
        "Mi" => bin(20),
        "Gi" => bin(30),
        "Ti" => bin(40),
        "Pi" => bin(50),
        "Ei" => bin(60),
        _ => {
            let number = suffix.strip_prefix(['e', 'E'])?;
            Some((10, number.parse().ok()?, Format::DecimalExponent))
        }
    }
}

fn pow10(n: u32) -> Option<i128> {
    10i128.checked_pow(n)
}

fn div_away(value: i128, by: i128) -> i128 {
    let q = value / by;
    if value % by == 0 { q } else { q + value.signum() }
}

fn clamp(v: i128) -> i64 {
    i64::try_from(v).unwrap_or(if v < 0 { i64::MIN } else { i64::MAX })
}

impl Quantity {
    /// Parses a quantity.
    ///
    /// # Errors
    /// A malformed text, with upstream's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err(FORMAT_ERROR.to_string());
        }
        let parts = split(text)?;
        let (base, exponent, mut format) = suffix_meaning(parts.suffix).ok_or(SUFFIX_ERROR)?;
        let digits = format!("{}{}", parts.whole, parts.fraction);
        let fraction = i32::try_from(parts.fraction.len()).map_err(|_| NUMERIC_ERROR)?;
        let mantissa: i128 = if digits.len() <= 38 {
            digits.parse().map_err(|_| NUMERIC_ERROR)?
        } else {
            // More digits than any value within the limits needs: the leading ones decide.
            i128::MAX
        };
        let (mut nanos, capped) = scale_to_nanos(mantissa, fraction, base, exponent);
        let max = i128::from(i64::MAX) * NANO;
        if (format == Format::BinarySi && nanos > max) || capped {
            nanos = max;
        }
        if format == Format::BinarySi && nanos > 0 && nanos < NANO {
            format = Format::DecimalSi;
        }
        let text = kept(&parts, text, &digits, format, exponent, fraction).then(|| text.to_string());
        Ok(Self { nanos: if parts.negative { -nanos } else { nanos }, format, text })
    }

    /// A whole number.
    pub fn from_value(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * NANO, format, text: None }
    }

    /// Thousandths.
    pub fn from_milli(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * (NANO / 1000), format, text: None }
    }

    /// The quantity of a JSON string or number.
    ///
    /// # Errors
    /// A malformed text or another JSON type.
    pub fn from_json(value: &serde_json::Value) -> Result<Self, String> {
        match value {
            serde_json::Value::String(s) => Self::parse(s.trim()),
            serde_json::Value::Number(n) => Self::parse(&n.to_string()),
            _ => Err(FORMAT_ERROR.to_string()),
        }
    }

    /// The whole number, rounded away from zero, bounded by i64.
    pub fn value(&self) -> i64 {
        clamp(div_away(self.nanos, NANO))
    }

    /// Thousandths, rounded away from zero, bounded by i64.
    pub fn milli_value(&self) -> i64 {
        clamp(div_away(self.nanos, NANO / 1000))
    }

    /// The value as a floating point number.
    pub fn as_f64(&self) -> f64 {
        #[allow(clippy::cast_precision_loss)]
        let (n, d) = (self.nanos as f64, NANO as f64);
        n / d
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        i32::try_from(self.nanos.signum()).unwrap_or(0)
    }

    /// Whether this is nothing.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether the value is a whole number.
    pub fn is_integer(&self) -> bool {
        self.nanos % NANO == 0
    }

    /// The family of suffixes.
    pub fn format(&self) -> Format {
        self.format
    }

    fn combine(&self, other: &Self, nanos: i128) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos, format, text: None }
    }

    /// The sum; a zero takes the other's format.
    #[must_use]
    pub fn add(&self, other: &Self) -> Self {
        self.combine(other, self.nanos.saturating_add(other.nanos))
    }

    /// The difference; a zero takes the other's format.
    #[must_use]
    pub fn sub(&self, other: &Self) -> Self {
        self.combine(other, self.nanos.saturating_sub(other.nanos))
    }
}

/// Billionths of mantissa x base^exponent / 10^fraction, rounded away from zero; and whether it left all bounds.
fn scale_to_nanos(mantissa: i128, fraction: i32, base: u32, exponent: i32) -> (i128, bool) {
    if mantissa == 0 {
        return (0, false);
    }
    let (mantissa, exponent) = if base == 2 {
        match mantissa.checked_mul(1i128 << exponent.clamp(0, 62)) {
            Some(m) => (m, 0),
            None => return (0, true),
        }
    } else {
        (mantissa, exponent)
    };
    let power = exponent.saturating_sub(fraction).saturating_add(9);
    if power >= 0 {
        match pow10(power.unsigned_abs()).and_then(|p| mantissa.checked_mul(p)) {
            Some(v) => (v, false),
            None => (0, true),
        }
    } else {
        match pow10(power.unsigned_abs()) {
            Some(p) => (div_away(mantissa, p), false),
            None => (1, false),
        }
    }
}

/// Whether upstream keeps the text as it was given: it takes such numbers for canonical.
fn kept(parts: &Parts<'_>, text: &str, digits: &str, format: Format, exponent: i32, fraction: i32) -> bool {
    if text == "0" {
        return true;
    }
    if digits == "0" && parts.suffix.is_empty() && parts.fraction.is_empty() {
        return false;
    }
    match format {
        Format::BinarySi => {
            let precision = 15
                - i32::try_from(parts.whole.len()).unwrap_or(i32::MAX)
                - exponent.saturating_mul(3) / 10
                - 1;
            let low = parts.whole.parse::<i64>().unwrap_or(0) & 7;
            fraction == 0 && precision >= 0 && exponent % 10 == 0 && low != 0
        }
        _ => {
            let scale = exponent.saturating_sub(fraction);
            digits.len() <= 18
                && scale >= -9
                && scale % 3 == 0
                && !digits.ends_with("000")
                && !digits.starts_with('0')
                && suffix_meaning(parts.suffix).is_some_and(|m| m.2 == format)
        }
    }
}

fn decimal(nanos: i128) -> (i128, i32) {
    let (mut mantissa, mut exponent) = (nanos, -9);
    while mantissa % 10 == 0 {
        mantissa /= 10;
        exponent += 1;
    }
    while exponent % 3 != 0 {
        mantissa *= 10;
        exponent -= 1;
    }
    (mantissa, exponent)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.text {
            return f.write_str(text);
        }
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANO;
        if self.format == Format::BinarySi && !small && self.is_integer() {
            let (mut n, mut step) = (self.nanos / NANO, 0);
            while n % 1024 == 0 && step < 6 {
                n /= 1024;
                step += 1;
            }
            return write!(f, "{n}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step]);
        }
        let (mut mantissa, mut exponent) = decimal(self.nanos);
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { write!(f, "{mantissa}") } else { write!(f, "{mantissa}e{exponent}") };
        }
        while exponent > 18 {
            mantissa *= 1000;
            exponent -= 3;
        }
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            18 => "E",
            _ => "",
        };
        write!(f, "{mantissa}{suffix}")
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical() {
        let table = [
            ("0", "0"),
            ("0m", "0"),
            ("-0", "0"),
            ("1", "1"),
            ("1500m", "1500m"),
            ("1.5", "1500m"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1000k", "1M"),
            ("1Ki", "1Ki"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Mi", "512Ki"),
            ("512Mi", "512Mi"),
            ("1000Ki", "1000Ki"),
            ("100M", "100M"),
            ("12e6", "12e6"),
            ("12000e3", "12e6"),
            ("1E", "1E"),
            ("1e3", "1e3"),
            ("1E3", "1E3"),
            ("0.001Ki", "1024m"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("100m", "100m"),
            ("-5m", "-5m"),
            ("9223372036854775807", "9223372036854775807"),
            ("9999999999Ei", "9223372036854775807"),
            ("100E", "100E"),
        ];
        for (input, want) in table {
            assert_eq!(Quantity::parse(input).unwrap().to_string(), want, "{input}");
        }
    }

    #[test]
    fn malformed() {
        for (input, want) in [
            ("", FORMAT_ERROR),
            ("1Gib", FORMAT_ERROR),
            ("1 Gi", FORMAT_ERROR),
            ("abc", FORMAT_ERROR),
            ("1ki", SUFFIX_ERROR),
            ("1mi", SUFFIX_ERROR),
            ("1e", SUFFIX_ERROR),
            ("é", FORMAT_ERROR),
        ] {
            assert_eq!(Quantity::parse(input).unwrap_err(), want, "{input}");
        }
    }

    #[test]
    fn arithmetic() {
        let q = |s: &str| Quantity::parse(s).unwrap();
        assert_eq!(q("100m").add(&q("0.9")).to_string(), "1");
        assert_eq!(q("0").add(&q("1Gi")).to_string(), "1Gi");
        assert_eq!(q("1Gi").sub(&q("512Mi")).to_string(), "512Mi");
        assert_eq!(q("1Gi").sub(&q("1")).to_string(), "1073741823");
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("-1500m").value(), -2);
        assert_eq!(q("1500u").milli_value(), 2);
        assert!(q("1Gi") > q("1G"));
        assert_eq!(q("1Ki"), q("1024"));
        assert_eq!(q("2").as_f64(), 2.0);
    }
}
