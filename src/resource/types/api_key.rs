//! The pair that opens the API by Basic authentication.

use super::credential;
use crate::resource::declaration::Type;

pub const TYPE: Type = Type { name: "apiKey", plural: "apiKeys", ..credential::TYPE };
