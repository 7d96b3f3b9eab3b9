//! As much JSON as the suite speaks: one request a line, floats as hexadecimal text (docs/conformance.md).

use std::{collections::HashMap, error::Error};

pub type Checked<T> = Result<T, Box<dyn Error>>;

pub enum Json {
    Text(String), // of a string; of a number, as it is written
    List(Vec<Json>),
    Object(HashMap<String, Json>),
}

impl Json {
    pub fn get(&self, name: &str) -> Checked<&Json> {
        let Json::Object(fields) = self else { return Err("an object is needed".into()) };
        fields.get(name).ok_or(format!("the request has no {name}").into())
    }

    pub fn text(&self) -> Checked<&str> {
        let Json::Text(text) = self else { return Err("a text or a number is needed".into()) };
        Ok(text)
    }

    pub fn list(&self) -> Checked<&[Json]> {
        let Json::List(items) = self else { return Err("a list is needed".into()) };
        Ok(items)
    }

    pub fn integer(&self) -> Checked<i64> {
        Ok(self.text()?.parse()?)
    }

    /// Rust reads decimal text, inf and nan. It does not read 0x1.8p+1.
    pub fn number(&self) -> Checked<f64> {
        let text = self.text()?;
        let (sign, digits) = text.strip_prefix('-').map_or((1.0, text), |digits| (-1.0, digits));
        let Some((mantissa, exponent)) = digits.strip_prefix("0x").and_then(|digits| digits.split_once('p')) else {
            return Ok(text.parse()?);
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let bits = u64::from_str_radix(&format!("{whole}{fraction}"), 16)?;
        let exponent = exponent.parse::<i32>()? - 4 * fraction.len() as i32;
        Ok(sign * bits as f64 * f64::from(exponent).exp2())
    }

    pub fn numbers(&self) -> Checked<Vec<f64>> {
        self.list()?.iter().map(Json::number).collect()
    }
}

/// A number as hexadecimal text: its mantissa as a whole number, and a power of two.
pub fn hex(number: f64) -> String {
    if !number.is_finite() {
        return format!("\"{number}\"").to_lowercase();
    }
    let (bits, sign) = (number.to_bits(), if number.is_sign_negative() { "-" } else { "" });
    let (power, fraction) = (bits >> 52 & 0x7ff, bits & ((1 << 52) - 1));
    let mantissa = if power == 0 { fraction } else { fraction | 1 << 52 };
    format!("\"{sign}{mantissa:#x}p{}\"", power.max(1) as i64 - 1075)
}

pub fn array(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(", "))
}

/// The value that comes next. It is passed over, and spaces, commas and colons before it.
pub fn read(rest: &mut &str) -> Checked<Json> {
    if take(rest, '"') {
        return Ok(Json::Text(read_text(rest)?));
    }
    if take(rest, '[') {
        let mut items = Vec::new();
        while !take(rest, ']') {
            items.push(read(rest)?);
        }
        return Ok(Json::List(items));
    }
    if take(rest, '{') {
        let mut fields = HashMap::new();
        while !take(rest, '}') {
            fields.insert(read(rest)?.text()?.to_string(), read(rest)?);
        }
        return Ok(Json::Object(fields));
    }
    let length = rest.find([' ', ',', ']', '}']).filter(|&length| length > 0).ok_or("a value is missing")?;
    let (text, behind) = rest.split_at(length);
    *rest = behind;
    Ok(Json::Text(text.into()))
}

fn take(rest: &mut &str, mark: char) -> bool {
    *rest = rest.trim_start_matches([' ', ',', ':']);
    rest.strip_prefix(mark).map(|behind| *rest = behind).is_some()
}

/// The rest of a text. Python writes a character beyond ASCII as one or two units of UTF-16.
fn read_text(rest: &mut &str) -> Checked<String> {
    let mut units = Vec::new();
    let mut next = || {
        let next = rest.chars().next().ok_or("a text has no end")?;
        *rest = &rest[next.len_utf8()..];
        Checked::Ok(next)
    };
    loop {
        match next()? {
            '"' => return Ok(String::from_utf16(&units)?),
            '\\' => units.push(match next()? {
                'u' => u16::from_str_radix(&String::from_iter([next()?, next()?, next()?, next()?]), 16)?,
                'b' => 8,
                'f' => 12,
                'n' => 10,
                'r' => 13,
                't' => 9,
                other => u8::try_from(other)?.into(),
            }),
            plain => units.extend(plain.encode_utf16(&mut [0; 2]).iter()),
        }
    }
}
