//! Types of volumes.

use std::collections::BTreeMap;

use cairn_api::path;
use cairn_api::types::{BACKEND, CreateType, EditType, TypeList, VolumeType};

use super::delete_each;
use crate::args::{self, Spec};
use crate::client::{Client, Wait};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::types;

pub(super) async fn run(command: args::Type, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        args::Type::Create { name, description, specs: args::Specs { specs, pool }, qos, default } => {
            let request = CreateType { name, description, specs: specs_of(specs, pool)?, qos, default };
            let made = client.post::<VolumeType>(path::TYPES, &request).await?;
            output.answer(&made, |made, _| types::created(made))
        }
        args::Type::List => {
            let list = client.get::<TypeList>(path::TYPES, Wait::Short).await?;
            output.answer(&list, |list, look| types::list(&list.types, look))
        }
        args::Type::Show { name } => {
            let shown = client.get::<VolumeType>(&path::volume_type(&name), Wait::Short).await?;
            output.answer(&shown, types::show)
        }
        args::Type::Edit { name, changes } => {
            let args::TypeChanges { description, specs, pool, qos, no_qos, default } = changes;
            let request = EditType {
                description,
                specs: specs_of(specs, pool)?,
                qos: if no_qos { Some(String::new()) } else { qos },
                default: default.then_some(true),
            };
            let edited = client.patch::<VolumeType>(&path::volume_type(&name), &request).await?;
            output.answer(&edited, |edited, _| types::edited(edited))
        }
        args::Type::Delete { names } => {
            let paths = names.iter().map(|name| path::volume_type(name));
            delete_each("type", &names, paths, client, output).await
        }
    }
}

/// The specs as one map; `--pool` is one of them.
fn specs_of(specs: Vec<Spec>, pool: Option<String>) -> Result<BTreeMap<String, String>, Failure> {
    let pool = pool.map(|value| Spec { key: BACKEND.to_owned(), value });
    let mut map = BTreeMap::new();
    for Spec { key, value } in specs.into_iter().chain(pool) {
        if map.insert(key.clone(), value).is_some() {
            return Err(Failure::Usage(format!("the spec {key} is given twice")));
        }
    }
    Ok(map)
}
