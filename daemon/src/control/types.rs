//! Types, QoS rules, and which limits hold for a volume.

use std::collections::BTreeMap;

use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::qos::QosRule;
use cairn_api::tags::{MAX_KEY_CHARS, MAX_TAGS, MAX_VALUE_CHARS};
use cairn_api::text;
use cairn_api::types::{
    BACKEND, CreateQosPolicy, CreateType, DEFAULT_TYPE, EditQosPolicy, EditType, QosPolicy, QosPolicyList,
    SetVolumeQos, TypeList, VolumeQos, VolumeType,
};
use cairn_cow::{Disk, Holder};

use super::context::{Context, busy, check_description, check_name, conflict, invalid};
use super::convert;
use crate::settings::{
    DEFAULT_TYPE_KEY, PolicySettings, Settings, TypeSettings, VOLUME_QOS, VOLUME_TYPE, encode, own_limits,
    policy_key, type_key, volume_type,
};
use crate::staging::is_hidden;
use crate::volumes::Volumes;

fn unknown_type(name: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no type '{name}'"))
        .with_hint("\"cairn type list\" shows what there is")
}

fn unknown_policy(name: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no QoS rule '{name}'"))
        .with_hint("\"cairn qos rule list\" shows what there is")
}

/// A type's settings.
pub(super) fn settings_of<'a>(settings: &'a Settings, name: &str) -> Result<&'a TypeSettings, ApiError> {
    settings.types.get(name).ok_or_else(|| unknown_type(name))
}

/// How many volumes have each type.
fn usage<D: Disk>(volumes: &Volumes<D>) -> BTreeMap<String, u64> {
    let mut usage = BTreeMap::new();
    for (_, pool) in volumes.pools.open() {
        for volume in pool.volumes().into_iter().filter(|volume| !is_hidden(&volume.attributes)) {
            *usage.entry(volume_type(&volume.attributes).to_owned()).or_insert(0) += 1;
        }
    }
    usage
}

/// How many volumes of a type users do not see now, and may see again.
fn hidden<D: Disk>(volumes: &Volumes<D>, name: &str) -> u64 {
    let all = volumes.pools.open().into_iter().flat_map(|(_, pool)| pool.volumes());
    let kept = all.map(|volume| volume.attributes);
    kept.filter(|kept| is_hidden(kept) && kept.get(VOLUME_TYPE) == Some(name)).count() as u64
}

fn show_type(settings: &Settings, usage: &BTreeMap<String, u64>, name: &str) -> Option<VolumeType> {
    let TypeSettings { description, specs, qos } = settings.types.get(name)?.clone();
    Some(VolumeType {
        name: name.to_owned(),
        description,
        specs,
        qos,
        default: settings.default_type == name,
        volumes: usage.get(name).copied().unwrap_or(0),
    })
}

pub(super) fn types<D: Disk>(volumes: &Volumes<D>) -> TypeList {
    let (settings, usage) = (volumes.settings(), usage(volumes));
    TypeList { types: settings.types.keys().filter_map(|name| show_type(&settings, &usage, name)).collect() }
}

pub(super) fn show<D: Disk>(volumes: &Volumes<D>, name: &str) -> Result<VolumeType, ApiError> {
    show_type(&volumes.settings(), &usage(volumes), name).ok_or_else(|| unknown_type(name))
}

fn check_type<D: Disk>(c: &Context<D>, settings: &Settings, new: &TypeSettings) -> Result<(), ApiError> {
    if let Some(policy) = &new.qos
        && !settings.policies.contains_key(policy)
    {
        return Err(unknown_policy(policy));
    }
    if let Some(backend) = new.backend() {
        c.volumes.pools.get(backend).map_err(|e| convert::error(&e))?;
    }
    Ok(())
}

/// Checks specs as they are written; an empty value takes a key away where there is something to take it from.
fn check_specs(specs: &BTreeMap<String, String>, name: &str, may_be_empty: bool) -> Result<(), ApiError> {
    if specs.len() > MAX_TAGS {
        return Err(invalid(format!("{} specs are more than {MAX_TAGS}", specs.len())));
    }
    for (key, value) in specs {
        if key.is_empty() || value.is_empty() && !may_be_empty {
            return Err(invalid(format!("the spec {key:?} of type '{name}' needs a key and a value")));
        }
        text::check_line("the key of a spec", key, MAX_KEY_CHARS).map_err(invalid)?;
        text::check_line("a spec", value, MAX_VALUE_CHARS).map_err(invalid)?;
    }
    Ok(())
}

async fn keep<D: Disk>(c: &Context<D>, changes: &[(&str, Option<&str>)]) -> Result<(), ApiError> {
    let kept = c.volumes.pools.main().set_attributes(Holder::Pool, changes).await;
    kept.map_err(|e| convert::error(&e))?;
    c.volumes.apply_limits();
    Ok(())
}

pub(super) async fn create<D: Disk>(c: Context<D>, request: CreateType) -> Result<VolumeType, ApiError> {
    let CreateType { name, description, specs, qos, default } = request;
    check_name(&name)?;
    check_description(&description)?;
    check_specs(&specs, &name, false)?;
    let settings = c.volumes.settings();
    if settings.types.contains_key(&name) {
        return Err(ApiError::new(ErrorCode::Exists, format!("there is already a type '{name}'"))
            .with_hint("choose another name"));
    }
    let new = TypeSettings { description, specs, qos };
    check_type(&c, &settings, &new)?;
    let (key, value) = (type_key(&name), encode(&new));
    let mut changes = vec![(key.as_str(), Some(value.as_str()))];
    if default {
        changes.push((DEFAULT_TYPE_KEY, Some(&name)));
    }
    keep(&c, &changes).await?;
    show(&c.volumes, &name)
}

pub(super) async fn edit<D: Disk>(
    c: Context<D>,
    name: String,
    request: EditType,
) -> Result<VolumeType, ApiError> {
    let settings = c.volumes.settings();
    let old = settings_of(&settings, &name)?;
    let mut new = old.clone();
    check_specs(&request.specs, &name, true)?;
    if let Some(description) = request.description {
        check_description(&description)?;
        new.description = description;
    }
    for (key, value) in request.specs {
        if value.is_empty() {
            new.specs.remove(&key)
        } else {
            new.specs.insert(key, value)
        };
    }
    if let Some(qos) = request.qos {
        new.qos = Some(qos).filter(|qos| !qos.is_empty());
    }
    check_type(&c, &settings, &new)?;
    let volumes = usage(&c.volumes).get(&name).copied().unwrap_or(0);
    if new.backend() != old.backend() && volumes > 0 {
        return Err(busy(format!(
            "of type '{name}' there are volumes, {volumes} in all: its pool ({BACKEND}) cannot change"
        ))
        .with_hint("make another type for the other pool"));
    }
    let (key, value) = (type_key(&name), encode(&new));
    let mut changes = vec![(key.as_str(), Some(value.as_str()))];
    match request.default {
        Some(true) => changes.push((DEFAULT_TYPE_KEY, Some(&name))),
        Some(false) if settings.default_type == name => {
            return Err(
                conflict(format!("'{name}' is the default type")).with_hint("make another type the default")
            );
        }
        _ => {}
    }
    keep(&c, &changes).await?;
    show(&c.volumes, &name)
}

pub(super) async fn delete<D: Disk>(c: Context<D>, name: String) -> Result<(), ApiError> {
    let shown = show(&c.volumes, &name)?;
    if shown.volumes > 0 {
        return Err(busy(format!("of type '{name}' there are volumes, {} in all", shown.volumes))
            .with_hint("give each another type first: cairn volume retype NAME TYPE"));
    }
    let hidden = hidden(&c.volumes, &name);
    if hidden > 0 {
        let why = format!(
            "of type '{name}' there are volumes in the recycle bin or being restored, {hidden} in all"
        );
        return Err(busy(why).with_hint("recover or purge them first: cairn recycle-bin list"));
    }
    if name == DEFAULT_TYPE {
        return Err(busy(format!("the type '{name}' is always there"))
            .with_hint("change it with \"cairn type edit\", or make another type the default"));
    }
    if shown.default {
        return Err(
            busy(format!("'{name}' is the default type")).with_hint("make another type the default first")
        );
    }
    keep(&c, &[(&type_key(&name), None)]).await
}

fn show_policy(settings: &Settings, name: &str) -> Option<QosPolicy> {
    let PolicySettings { description, rule } = settings.policies.get(name)?.clone();
    let types = settings.types.iter().filter(|(_, t)| t.qos.as_deref() == Some(name));
    let types = types.map(|(name, _)| name.clone()).collect();
    Some(QosPolicy { name: name.to_owned(), description, rule, types })
}

pub(super) fn policies<D: Disk>(volumes: &Volumes<D>) -> QosPolicyList {
    let settings = volumes.settings();
    QosPolicyList {
        rules: settings.policies.keys().filter_map(|name| show_policy(&settings, name)).collect(),
    }
}

pub(super) fn policy<D: Disk>(volumes: &Volumes<D>, name: &str) -> Result<QosPolicy, ApiError> {
    show_policy(&volumes.settings(), name).ok_or_else(|| unknown_policy(name))
}

pub(super) async fn create_policy<D: Disk>(
    c: Context<D>,
    request: CreateQosPolicy,
) -> Result<QosPolicy, ApiError> {
    let CreateQosPolicy { name, description, rule } = request;
    check_name(&name)?;
    check_description(&description)?;
    rule.validate()?;
    if c.volumes.settings().policies.contains_key(&name) {
        return Err(ApiError::new(ErrorCode::Exists, format!("there is already a QoS rule '{name}'"))
            .with_hint("choose another name"));
    }
    let value = encode(&PolicySettings { description, rule });
    keep(&c, &[(&policy_key(&name), Some(&value))]).await?;
    policy(&c.volumes, &name)
}

/// `rule` with limits set by their keys.
fn merged(rule: &QosRule, set: &BTreeMap<String, u64>) -> Result<QosRule, ApiError> {
    let settings: Vec<String> = set.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Ok(rule.merge(settings.iter().map(String::as_str))?)
}

pub(super) async fn edit_policy<D: Disk>(
    c: Context<D>,
    name: String,
    request: EditQosPolicy,
) -> Result<QosPolicy, ApiError> {
    let old = policy(&c.volumes, &name)?;
    request.description.as_deref().map_or(Ok(()), check_description)?;
    let new = PolicySettings {
        description: request.description.unwrap_or(old.description),
        rule: merged(&old.rule, &request.set)?,
    };
    keep(&c, &[(&policy_key(&name), Some(&encode(&new)))]).await?;
    policy(&c.volumes, &name)
}

pub(super) async fn delete_policy<D: Disk>(c: Context<D>, name: String) -> Result<(), ApiError> {
    let shown = policy(&c.volumes, &name)?;
    if !shown.types.is_empty() {
        return Err(busy(format!("the QoS rule '{name}' is in use by types: {}", shown.types.join(", ")))
            .with_hint("take it from each first: cairn type edit TYPE --no-qos"));
    }
    keep(&c, &[(&policy_key(&name), None)]).await
}

pub(super) fn volume_limits<D: Disk>(volumes: &Volumes<D>, name: &str) -> cairn_cow::Result<VolumeQos> {
    let (_, pool) = volumes.pools.of_volume(name)?;
    let info = pool.volume(name)?;
    let settings = volumes.settings();
    let (source, rule) = settings.limits(&info.attributes);
    let stats = volumes.throttle_stats(&pool, info.id);
    let volume_type = volume_type(&info.attributes).to_owned();
    Ok(VolumeQos {
        source,
        rule,
        own: own_limits(&info.attributes),
        type_rule: settings.type_policy(&volume_type).map(str::to_owned),
        volume_type,
        waits: stats.waits,
        waited_us: u64::try_from(stats.waited.as_micros()).unwrap_or(u64::MAX),
        waiting: stats.waiting,
        volume: info.name,
    })
}

pub(super) async fn set_volume_limits<D: Disk>(
    c: Context<D>,
    name: String,
    request: SetVolumeQos,
) -> Result<VolumeQos, ApiError> {
    let (_, pool) = c.pool_of(&name)?;
    let info = pool.volume(&name).map_err(|e| convert::error(&e))?;
    let rule = merged(&own_limits(&info.attributes), &request.set)?;
    let value = (!rule.is_unlimited()).then(|| encode(&rule));
    let changes = [(VOLUME_QOS, value.as_deref())];
    let kept = pool.set_attributes(Holder::Volume(&name), &changes).await;
    kept.map_err(|e| convert::error(&e))?;
    c.volumes.apply_limits();
    volume_limits(&c.volumes, &name).map_err(|e| convert::error(&e))
}
