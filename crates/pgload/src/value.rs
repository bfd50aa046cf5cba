//! Values of parameters: drawn, or taken from an earlier statement's row.

use bytes::{BufMut as _, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Int(i64),
    /// Days since 1970-01-01.
    Day(i32),
    /// A text.
    Text(String),
    /// Whole numbers.
    Ints(Vec<i64>),
    /// A column as the server sent it; `None` is NULL.
    Raw(Type, Option<Vec<u8>>),
}

/// Days from 1970-01-01 to PostgreSQL's day zero.
const EPOCH_DAYS: i32 = 10_957;

type Refusal = Box<dyn std::error::Error + Sync + Send>;

impl Value {
    /// Whether it can be given for a parameter of this type.
    pub fn fits(&self, ty: &Type) -> bool {
        let is = |types: &[Type]| types.contains(ty);
        match self {
            Self::Int(_) => is(&[Type::INT2, Type::INT4, Type::INT8, Type::FLOAT8, Type::TEXT]),
            Self::Day(_) => is(&[Type::DATE, Type::TIMESTAMP, Type::TIMESTAMPTZ]),
            Self::Text(_) => is(&[Type::TEXT, Type::VARCHAR, Type::BPCHAR, Type::UNKNOWN]),
            Self::Ints(_) => is(&[Type::INT2_ARRAY, Type::INT4_ARRAY, Type::INT8_ARRAY]),
            Self::Raw(own, _) => {
                let ints = [Type::INT2, Type::INT4, Type::INT8];
                own == ty || (ints.contains(own) && ints.contains(ty))
            }
        }
    }
}

fn int(value: i64, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Refusal> {
    match *ty {
        Type::INT2 => out.put_i16(value.try_into()?),
        Type::INT4 => out.put_i32(value.try_into()?),
        Type::INT8 => out.put_i64(value),
        Type::FLOAT8 => out.put_f64(value as f64),
        _ => out.put_slice(value.to_string().as_bytes()),
    }
    Ok(IsNull::No)
}

impl ToSql for Value {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Refusal> {
        if !self.fits(ty) {
            return Err(format!("{self:?} cannot be given for a parameter of type {ty}").into());
        }
        match self {
            Self::Int(value) => int(*value, ty, out),
            Self::Day(days) => {
                let days = days - EPOCH_DAYS;
                match *ty {
                    Type::DATE => out.put_i32(days),
                    _ => out.put_i64(i64::from(days) * 86_400_000_000),
                }
                Ok(IsNull::No)
            }
            Self::Text(text) => text.to_sql(ty, out),
            Self::Ints(values) => match *ty {
                Type::INT8_ARRAY => values.to_sql(ty, out),
                Type::INT4_ARRAY => values.iter().map(|v| *v as i32).collect::<Vec<_>>().to_sql(ty, out),
                _ => values.iter().map(|v| *v as i16).collect::<Vec<_>>().to_sql(ty, out),
            },
            Self::Raw(_, None) => Ok(IsNull::Yes),
            Self::Raw(own, Some(bytes)) if own == ty => {
                out.put_slice(bytes);
                Ok(IsNull::No)
            }
            Self::Raw(own, Some(bytes)) => {
                let value = match *own {
                    Type::INT2 => i16::from_sql(own, bytes)?.into(),
                    Type::INT4 => i32::from_sql(own, bytes)?.into(),
                    _ => i64::from_sql(own, bytes)?,
                };
                int(value, ty, out)
            }
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// Takes a column as it is.
pub struct AsSent(pub Type, pub Option<Vec<u8>>);

impl<'a> FromSql<'a> for AsSent {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Refusal> {
        Ok(Self(ty.clone(), Some(raw.to_vec())))
    }

    fn from_sql_null(ty: &Type) -> Result<Self, Refusal> {
        Ok(Self(ty.clone(), None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(value: &Value, ty: &Type) -> Result<Vec<u8>, String> {
        let mut out = BytesMut::new();
        value.to_sql(ty, &mut out).map(|_| out.to_vec()).map_err(|error| error.to_string())
    }

    #[test]
    fn values_take_the_form_of_the_parameter() {
        assert_eq!(bytes(&Value::Int(5), &Type::INT4), Ok(vec![0, 0, 0, 5]));
        assert_eq!(bytes(&Value::Int(5), &Type::TEXT), Ok(b"5".to_vec()));
        assert_eq!(bytes(&Value::Day(EPOCH_DAYS + 1), &Type::DATE), Ok(vec![0, 0, 0, 1]));
        let raw = Value::Raw(Type::INT8, Some(7i64.to_be_bytes().to_vec()));
        assert_eq!(bytes(&raw, &Type::INT4), Ok(vec![0, 0, 0, 7]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(bytes(&Value::Int(70_000), &Type::INT2).is_err());
        assert!(bytes(&Value::Text("x".into()), &Type::INT4).unwrap_err().contains("type int4"));
        assert!(bytes(&Value::Raw(Type::TEXT, None), &Type::DATE).is_err());
    }
}
