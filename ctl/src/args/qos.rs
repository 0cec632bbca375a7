//! `cairn qos ...`

use clap::{Args, Subcommand};

use super::values::Setting;

const KEYS: &str = "\
Keys: total_, read_ or write_, then bytes_sec or iops_sec; each also with _max (the rate in a
burst) and _max_length (its seconds); and size_iops_sec. Bytes may be written 100M. 0 takes a
limit away; what is not given stays.";

#[derive(Subcommand, Debug)]
pub(crate) enum Qos {
    /// Set a volume's own limits, which stand in place of its type's and hold at once
    #[command(after_help = format!("\
Examples:
  cairn qos set demo total_iops_sec=2000 total_bytes_sec=100M
  cairn qos set demo write_iops_sec=500 write_iops_sec_max=2000 write_iops_sec_max_length=30
  cairn qos set demo total_iops_sec=0

{KEYS}"))]
    Set {
        /// The volume
        #[arg(value_name = "VOL")]
        volume: String,
        /// What to set
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<Setting>,
    },
    /// Show a volume's limits, where they come from, and how much had to wait for them
    #[command(after_help = "Example:\n  cairn qos show demo")]
    Show {
        /// The volume
        #[arg(value_name = "VOL")]
        volume: String,
    },
    /// Limits by a name, for types to point to
    #[command(subcommand)]
    Rule(Rule),
}

#[derive(Subcommand, Debug)]
pub(crate) enum Rule {
    /// Create a rule
    #[command(after_help = format!("\
Examples:
  cairn qos rule create gold total_iops_sec=10000 total_bytes_sec=400M
  cairn type create fast --qos gold

{KEYS}"))]
    Create {
        /// The new rule's name: letters, digits, '.', '_' and '-', at most 128
        name: String,
        /// Its limits
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<Setting>,
        /// Free text
        #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
        description: String,
    },
    /// List all rules
    #[command(visible_alias = "ls")]
    List,
    /// Show one rule
    Show {
        /// The rule
        name: String,
    },
    /// Change a rule, at once for all volumes of the types that point to it
    #[command(after_help = format!("\
Examples:
  cairn qos rule edit gold total_iops_sec=20000
  cairn qos rule edit gold total_bytes_sec=0 --description 'by operations only'

{KEYS}"))]
    Edit {
        /// The rule
        name: String,
        #[command(flatten)]
        changes: RuleChanges,
    },
    /// Delete rules that no type points to
    #[command(visible_alias = "rm", after_help = "Example:\n  cairn qos rule delete gold silver")]
    Delete {
        /// The rules
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

/// At least one of them.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct RuleChanges {
    /// What to set
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<Setting>,
    /// Free text
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
}
