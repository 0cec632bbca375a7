//! Limits to I/O: a volume's own, and rules for types to point to.

use std::collections::BTreeMap;

use cairn_api::error::ApiError;
use cairn_api::path;
use cairn_api::qos::QosRule;
use cairn_api::types::{CreateQosPolicy, EditQosPolicy, QosPolicy, QosPolicyList, SetVolumeQos, VolumeQos};

use super::delete_each;
use crate::args::{self, Setting};
use crate::client::{Client, Wait};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::qos;

pub(super) async fn run(command: args::Qos, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        args::Qos::Set { volume, settings } => {
            let request = SetVolumeQos { set: map(settings)? };
            let set = client.patch::<VolumeQos>(&path::volume_sub(&volume, "qos"), &request).await?;
            output.answer(&set, |set, _| qos::set(set))
        }
        args::Qos::Show { volume } => {
            let shown = client.get::<VolumeQos>(&path::volume_sub(&volume, "qos"), Wait::Short).await?;
            output.answer(&shown, qos::show)
        }
        args::Qos::Rule(command) => rule(command, client, output).await,
    }
}

async fn rule(command: args::Rule, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        args::Rule::Create { name, settings, description } => {
            let settings: Vec<_> = settings.iter().map(|s| format!("{}={}", s.key, s.value)).collect();
            let rule = QosRule::default().merge(settings.iter().map(String::as_str));
            let rule = rule.map_err(ApiError::from)?;
            let request = CreateQosPolicy { name, description, rule };
            let made = client.post::<QosPolicy>(path::QOS, &request).await?;
            output.answer(&made, |made, _| qos::rule_created(made))
        }
        args::Rule::List => {
            let list = client.get::<QosPolicyList>(path::QOS, Wait::Short).await?;
            output.answer(&list, |list, look| qos::rules(&list.rules, look))
        }
        args::Rule::Show { name } => {
            let shown = client.get::<QosPolicy>(&path::qos(&name), Wait::Short).await?;
            output.answer(&shown, qos::rule)
        }
        args::Rule::Edit { name, changes: args::RuleChanges { settings, description } } => {
            let request = EditQosPolicy { description, set: map(settings)? };
            let edited = client.patch::<QosPolicy>(&path::qos(&name), &request).await?;
            output.answer(&edited, |edited, _| qos::rule_edited(edited))
        }
        args::Rule::Delete { names } => {
            let paths = names.iter().map(|name| path::qos(name));
            delete_each("rule", &names, paths, client, output).await
        }
    }
}

fn map(settings: Vec<Setting>) -> Result<BTreeMap<String, u64>, Failure> {
    let mut map = BTreeMap::new();
    for Setting { key, value } in settings {
        if map.insert(key.clone(), value).is_some() {
            return Err(Failure::Usage(format!("{key} is given twice")));
        }
    }
    Ok(map)
}
