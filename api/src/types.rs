//! Volume types, and the QoS rules that they point to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::qos::QosRule;
use crate::schema::{self, Line, Name, NameOrNone};

/// The type that there always is: volumes get it when none is asked for, unless another was made the default.
pub const DEFAULT_TYPE: &str = "default";
/// The spec that says in which pool the type's volumes are made; the daemon's first pool without it.
pub const BACKEND: &str = "volume_backend_name";

/// A kind of volume that can be asked for by its name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct VolumeType {
    /// Unique among types.
    #[schema(example = "fast")]
    pub name: String,
    /// Free text.
    pub description: String,
    /// Keys and values. `volume_backend_name` is the pool in which volumes of this type are made; others are for
    /// whoever reads them.
    #[schema(value_type = schema::Specs)]
    pub specs: BTreeMap<String, String>,
    /// The QoS rule that holds for its volumes.
    #[serde(default)]
    pub qos: Option<String>,
    /// Whether volumes get it when no type is asked for.
    pub default: bool,
    /// How many volumes have it.
    pub volumes: u64,
}

/// All types.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TypeList {
    /// By name.
    pub types: Vec<VolumeType>,
}

/// Asks for a new type.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateType {
    /// A name by the rules for volumes.
    #[schema(example = "fast", value_type = Name)]
    pub name: String,
    /// Free text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(value_type = Line)]
    pub description: String,
    /// Keys and values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = schema::Specs)]
    pub specs: BTreeMap<String, String>,
    /// The QoS rule that holds for its volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Name>)]
    pub qos: Option<String>,
    /// Volumes get it from now on when no type is asked for.
    #[serde(default)]
    pub default: bool,
}

/// What of a type is to change; what is left out stays.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EditType {
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Line>)]
    pub description: Option<String>,
    /// Specs to set; an empty value takes the key away. `volume_backend_name` cannot change while volumes have the
    /// type.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = schema::SpecChanges)]
    pub specs: BTreeMap<String, String>,
    /// The QoS rule that holds for its volumes, connected ones included; the empty string for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<NameOrNone>)]
    pub qos: Option<String>,
    /// `true` makes it the default. Making another one the default is the only way to end that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<bool>,
}

/// Limits by a name, for types to point to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct QosPolicy {
    /// Unique among rules.
    #[schema(example = "gold")]
    pub name: String,
    /// Free text.
    pub description: String,
    /// The limits.
    pub rule: QosRule,
    /// The types that point to it.
    pub types: Vec<String>,
}

/// All QoS rules.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct QosPolicyList {
    /// By name.
    pub rules: Vec<QosPolicy>,
}

/// Asks for a new QoS rule.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateQosPolicy {
    /// A name by the rules for volumes.
    #[schema(example = "gold", value_type = Name)]
    pub name: String,
    /// Free text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(value_type = Line)]
    pub description: String,
    /// The limits.
    pub rule: QosRule,
}

/// What of a QoS rule is to change; it holds at once for every volume of the types that point to it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EditQosPolicy {
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Line>)]
    pub description: Option<String>,
    /// Limits to set, by their keys; 0 takes one away. The others stay.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = QosRule)]
    pub set: BTreeMap<String, u64>,
}

/// Asks to change a volume's own limits.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetVolumeQos {
    /// Limits to set, by their keys; 0 takes one away. The others stay.
    #[schema(value_type = QosRule)]
    pub set: BTreeMap<String, u64>,
}

/// Where the limits of a volume come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum QosSource {
    /// It has limits of its own, which stand in place of its type's.
    Volume,
    /// Its type points to a rule.
    Type,
    /// It has no limits.
    None,
}

/// The limits of one volume, and what they have done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct VolumeQos {
    /// The volume.
    pub volume: String,
    /// Where the limits in force come from.
    pub source: QosSource,
    /// The limits in force.
    pub rule: QosRule,
    /// Its own limits.
    pub own: QosRule,
    /// Its type.
    #[serde(rename = "type")]
    pub volume_type: String,
    /// The rule that its type points to.
    #[serde(default)]
    pub type_rule: Option<String>,
    /// Requests that had to wait since the daemon started.
    pub waits: u64,
    /// How long they waited in all, in microseconds.
    pub waited_us: u64,
    /// Requests that wait now.
    pub waiting: u64,
}

/// Asks to give a volume another type.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Retype {
    /// The type, of the same pool.
    #[serde(rename = "type")]
    #[schema(example = "fast", value_type = Name)]
    pub volume_type: String,
}
