//! `cairn type ...`

use clap::{Args, Subcommand};

use super::values::Spec;

#[derive(Subcommand, Debug)]
pub(crate) enum Type {
    /// Create a type
    #[command(after_help = "\
Examples:
  cairn type create fast --qos gold --default
  cairn type create archive --pool bulk --description 'large and slow'
  cairn type create labelled --spec media=ssd --spec owner=web")]
    Create {
        /// The new type's name: letters, digits, '.', '_' and '-', at most 128
        name: String,
        /// Free text
        #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
        description: String,
        #[command(flatten)]
        specs: Specs,
        /// The QoS rule that holds for its volumes
        #[arg(long, value_name = "RULE")]
        qos: Option<String>,
        /// Make it the type of volumes that ask for none
        #[arg(long)]
        default: bool,
    },
    /// List all types
    #[command(visible_alias = "ls")]
    List,
    /// Show one type
    Show {
        /// The type
        name: String,
    },
    /// Change a type, at once for all volumes that have it
    #[command(after_help = "\
Examples:
  cairn type edit fast --qos platinum
  cairn type edit fast --no-qos
  cairn type edit fast --default
  cairn type edit labelled --spec media=nvme --spec owner=")]
    Edit {
        /// The type
        name: String,
        #[command(flatten)]
        changes: TypeChanges,
    },
    /// Delete types that no volume has
    #[command(visible_alias = "rm", after_help = "Example:\n  cairn type delete fast archive")]
    Delete {
        /// The types
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Specs {
    /// A key and its value, for whoever reads them; may be given several times
    #[arg(long = "spec", value_name = "KEY=VALUE")]
    pub(crate) specs: Vec<Spec>,
    /// The pool that its volumes are made in: the spec volume_backend_name
    #[arg(long, value_name = "POOL")]
    pub(crate) pool: Option<String>,
}

/// At least one of them.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct TypeChanges {
    /// Free text
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// A key and its new value, KEY= takes it away; may be given several times
    #[arg(long = "spec", value_name = "KEY=VALUE")]
    pub(crate) specs: Vec<Spec>,
    /// The pool that its volumes are made in: the spec volume_backend_name; no volume may have the type
    #[arg(long, value_name = "POOL")]
    pub(crate) pool: Option<String>,
    /// The QoS rule that holds for its volumes
    #[arg(long, value_name = "RULE")]
    pub(crate) qos: Option<String>,
    /// No QoS rule
    #[arg(long, conflicts_with = "qos")]
    pub(crate) no_qos: bool,
    /// Make it the type of volumes that ask for none
    #[arg(long)]
    pub(crate) default: bool,
}
