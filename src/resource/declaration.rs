//! How a type is declared: its fields, methods, actions and links, as constants.
//!
//! A type is declared once, in a file of its own below [`super::types`]. Its schema ([`super::schema`]), what is accepted
//! from a client ([`super::validation`]) and what a client is shown all come from that declaration.

use super::Resource;
use serde_json::{Map, Value};

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    String,
    Password,
    Int,
    Float,
    /// Milliseconds since 1970 in the store, text on the wire.
    Date,
    Blob,
    Boolean,
    Enum,
    Json,
    /// A number in the store, `1i54` on the wire; names the type that is referred to.
    Reference(&'static str),
    Array(&'static Form),
    Map(&'static Form),
    /// A value with a schema of its own: `resource`.
    Type(&'static str),
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::String => f.write_str("string"),
            Self::Password => f.write_str("password"),
            Self::Int => f.write_str("int"),
            Self::Float => f.write_str("float"),
            Self::Date => f.write_str("date"),
            Self::Blob => f.write_str("blob"),
            Self::Boolean => f.write_str("boolean"),
            Self::Enum => f.write_str("enum"),
            Self::Json => f.write_str("json"),
            Self::Reference(to) => write!(f, "reference[{to}]"),
            Self::Array(of) => write!(f, "array[{of}]"),
            Self::Map(of) => write!(f, "map[{of}]"),
            Self::Type(name) => f.write_str(name),
        }
    }
}

/// A default that can be written in a declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Literal {
    Boolean(bool),
    Int(i64),
    Text(&'static str),
}

impl Literal {
    pub fn value(self) -> Value {
        match self {
            Self::Boolean(value) => Value::from(value),
            Self::Int(value) => Value::from(value),
            Self::Text(value) => Value::from(value),
        }
    }
}

/// Which filters a field takes in lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    None,
    /// Those of its form.
    Natural,
    /// Those of a string, though it is an enum.
    Text,
    /// By its own value alone.
    Equal,
}

/// One field of a type. Built up in constants: `Field::string("hostname").create().min_length(1)`.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub form: Form,
    pub create: bool,
    pub update: bool,
    pub required: bool,
    pub unique: bool,
    pub nullable: bool,
    pub default: Option<Literal>,
    pub options: &'static [&'static str],
    pub min: Option<i64>,
    pub max: Option<i64>,
    pub min_length: Option<usize>,
    pub max_length: Option<usize>,
    /// The only characters that its text may have, as a character class: `*._0-9a-zA-Z`.
    pub valid_chars: Option<&'static str>,
    pub filter: Filter,
    /// Only accounts that see everything are shown it and may write it.
    pub admin_only: bool,
    /// Only accounts that see everything may write it; all are shown it.
    pub admin_writes: bool,
    /// Taken when something is created, and never shown again.
    pub write_only: bool,
}

macro_rules! constructors {
    ($($name:ident $form:ident,)+) => {
        $(pub const fn $name(name: &'static str) -> Self {
            Self::new(name, Form::$form)
        })+
    };
}

impl Field {
    pub const fn new(name: &'static str, form: Form) -> Self {
        Self {
            name,
            form,
            create: false,
            update: false,
            required: false,
            unique: false,
            nullable: true,
            default: None,
            options: &[],
            min: None,
            max: None,
            min_length: None,
            max_length: None,
            valid_chars: None,
            filter: Filter::None,
            admin_only: false,
            admin_writes: false,
            write_only: false,
        }
    }

    constructors! {
        string String,
        password Password,
        int Int,
        date Date,
        boolean Boolean,
        json Json,
    }

    pub const fn reference(name: &'static str, to: &'static str) -> Self {
        Self::new(name, Form::Reference(to))
    }

    pub const fn array(name: &'static str, of: &'static Form) -> Self {
        Self::new(name, Form::Array(of))
    }

    pub const fn map(name: &'static str, of: &'static Form) -> Self {
        Self::new(name, Form::Map(of))
    }

    /// An enum with these options.
    pub const fn one_of(name: &'static str, options: &'static [&'static str]) -> Self {
        Self { options, ..Self::new(name, Form::Enum) }
    }

    pub const fn create(self) -> Self {
        Self { create: true, ..self }
    }

    pub const fn update(self) -> Self {
        Self { update: true, ..self }
    }

    pub const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    pub const fn unique(self) -> Self {
        Self { unique: true, ..self }
    }

    pub const fn not_null(self) -> Self {
        Self { nullable: false, ..self }
    }

    pub const fn default(self, default: Literal) -> Self {
        Self { default: Some(default), ..self }
    }

    pub const fn range(self, min: i64, max: i64) -> Self {
        Self { min: Some(min), max: Some(max), ..self }
    }

    pub const fn min_length(self, length: usize) -> Self {
        Self { min_length: Some(length), ..self }
    }

    pub const fn max_length(self, length: usize) -> Self {
        Self { max_length: Some(length), ..self }
    }

    pub const fn valid_chars(self, class: &'static str) -> Self {
        Self { valid_chars: Some(class), ..self }
    }

    /// Lists can be filtered and sorted by it.
    pub const fn filtered(self) -> Self {
        Self { filter: Filter::Natural, ..self }
    }

    pub const fn filtered_by_value(self) -> Self {
        Self { filter: Filter::Equal, ..self }
    }

    pub const fn filtered_as_text(self) -> Self {
        Self { filter: Filter::Text, ..self }
    }

    pub const fn admin_only(self) -> Self {
        Self { admin_only: true, ..self }
    }

    pub const fn admin_writes(self) -> Self {
        Self { admin_writes: true, ..self }
    }

    pub const fn write_only(self) -> Self {
        Self { write_only: true, ..self }
    }

    /// The modifiers that a filter on it takes; none where lists cannot be filtered by it.
    pub const fn modifiers(&self) -> &'static [&'static str] {
        const TEXT: &[&str] = &["eq", "ne", "prefix", "like", "notlike", "null", "notnull"];
        const ORDERED: &[&str] = &["eq", "ne", "lt", "lte", "gt", "gte", "null", "notnull"];
        const PLAIN: &[&str] = &["eq", "ne", "null", "notnull"];
        match (self.filter, self.form) {
            (Filter::None, _) => &[],
            (Filter::Equal, _) => &["eq"],
            (Filter::Text, _) | (_, Form::String | Form::Password | Form::Blob) => TEXT,
            (_, Form::Int | Form::Float | Form::Date) => ORDERED,
            _ => PLAIN,
        }
    }
}

/// Something that can be asked of a resource: `POST …/?action=stop`.
#[derive(Clone, Copy, Debug)]
pub struct Action {
    pub name: &'static str,
    /// The type of its input, if it takes one.
    pub input: Option<&'static str>,
    /// The type that it answers with.
    pub output: &'static str,
}

/// The resources that belong to one, found by a reference.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// As in `links`; in addresses and in `include` in lower case.
    pub name: &'static str,
    pub target: &'static str,
    pub path: LinkPath,
    /// The field that a POST to this link's list fills in with the id of where it starts.
    pub create_default: Option<&'static str>,
}

/// How a link is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkPath {
    /// My field refers to the one target.
    One(&'static str),
    /// My field refers to a target, which is shown as a list of one.
    OneAsMany(&'static str),
    /// The targets' field refers to me.
    Many(&'static str),
}

/// A check of a whole input, behind those of its fields.
pub type Check = fn(&Map<String, Value>) -> Result<(), super::validation::Invalid>;

/// Where the rows of a type come from that are not stored by themselves: each is part of another's.
#[derive(Clone, Copy, Debug)]
pub struct Derived {
    /// The base types of those others.
    pub from: &'static [&'static str],
    /// The parts of a row that is stored under that base.
    pub rows: fn(&'static str, &Resource) -> Vec<Resource>,
}

/// A type as it is declared.
#[derive(Clone, Copy, Debug)]
pub struct Type {
    /// `hostOnlyNetwork`.
    pub name: &'static str,
    /// `hostOnlyNetworks`; in addresses in lower case.
    pub plural: &'static str,
    /// Under which it is stored and counted: `network`.
    pub base: &'static str,
    /// In groups, since types share many.
    pub fields: &'static [&'static [Field]],
    pub collection_methods: &'static [&'static str],
    pub resource_methods: &'static [&'static str],
    pub actions: &'static [Action],
    pub links: &'static [Link],
    /// Whether it has a list of its own.
    pub listable: bool,
    /// Whether only accounts that see everything may create and change it.
    pub admin_writes: bool,
    pub check: Option<Check>,
    /// `None` where its rows are stored.
    pub derived: Option<Derived>,
}

impl Type {
    /// A type without fields, methods, actions and links, to build others from.
    pub const fn bare(name: &'static str, plural: &'static str) -> Self {
        Self {
            name,
            plural,
            base: name,
            fields: &[],
            collection_methods: &[],
            resource_methods: &[],
            actions: &[],
            links: &[],
            listable: false,
            admin_writes: false,
            check: None,
            derived: None,
        }
    }

    /// The base types whose records hold its rows.
    pub fn kept_in(&'static self) -> &'static [&'static str] {
        self.derived.map_or(std::slice::from_ref(&self.base), |derived| derived.from)
    }

    pub fn fields(&self) -> impl Iterator<Item = &'static Field> + use<> {
        self.fields.iter().flat_map(|group| group.iter())
    }

    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields().find(|field| field.name == name)
    }

    /// By its name in any case.
    pub fn link(&self, name: &str) -> Option<&'static Link> {
        self.links.iter().find(|link| link.name.eq_ignore_ascii_case(name))
    }

    pub fn action(&self, name: &str) -> Option<&'static Action> {
        self.actions.iter().find(|action| action.name == name)
    }

    /// Whether it is one of several types stored under one base.
    pub fn is_subtype(&self) -> bool {
        self.name != self.base
    }
}
