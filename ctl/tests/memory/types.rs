//! Types, QoS rules, and the limits that volumes have from them.

use std::collections::BTreeMap;

use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::pool::MAIN_POOL;
use cairn_api::qos::QosRule;
use cairn_api::types::*;
use cairn_api::volume::Volume;

use super::state::State;
use super::{check_name, error};

#[derive(Default)]
pub(super) struct Type {
    description: String,
    specs: BTreeMap<String, String>,
    qos: Option<String>,
}

pub(super) struct Policy {
    description: String,
    rule: QosRule,
}

impl Type {
    /// The types of a new daemon.
    pub(super) fn first() -> BTreeMap<String, Type> {
        BTreeMap::from([(DEFAULT_TYPE.to_owned(), Type::default())])
    }

    /// The pool of its volumes.
    pub(super) fn pool(&self) -> &str {
        self.specs.get(BACKEND).map_or(MAIN_POOL, String::as_str)
    }
}

/// The rule with each key of `set` set.
fn merged(rule: &QosRule, set: &BTreeMap<String, u64>) -> Result<QosRule, ApiError> {
    let settings: Vec<_> = set.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Ok(rule.merge(settings.iter().map(String::as_str))?)
}

impl State {
    fn typed(&self, name: &str) -> Result<&Type, ApiError> {
        self.types.get(name).ok_or_else(|| error(ErrorCode::NotFound, format!("there is no type {name:?}")))
    }

    pub(super) fn pool_of_type(&self, name: &str) -> Result<String, ApiError> {
        Ok(self.typed(name)?.pool().to_owned())
    }

    pub(super) fn volume_type(&self, name: &str) -> Result<VolumeType, ApiError> {
        let found = self.typed(name)?;
        Ok(VolumeType {
            name: name.to_owned(),
            description: found.description.clone(),
            specs: found.specs.clone(),
            qos: found.qos.clone(),
            default: self.default_type == name,
            volumes: self.heads.values().filter(|head| head.volume_type == name).count() as u64,
        })
    }

    /// Fails unless the pool and the rule that a type names exist.
    fn check_type(&self, specs: &BTreeMap<String, String>, qos: Option<&String>) -> Result<(), ApiError> {
        if let Some(pool) = specs.get(BACKEND).filter(|pool| !pool.is_empty()) {
            self.pool(pool)?;
        }
        if let Some(rule) = qos.filter(|rule| !rule.is_empty()) {
            self.policy(rule)?;
        }
        Ok(())
    }

    pub(super) fn create_type(&mut self, r: CreateType) -> Result<VolumeType, ApiError> {
        check_name(&r.name)?;
        if self.types.contains_key(&r.name) {
            return Err(error(ErrorCode::Exists, format!("there is already a type {:?}", r.name)));
        }
        self.check_type(&r.specs, r.qos.as_ref())?;
        if r.default {
            self.default_type = r.name.clone();
        }
        let made = Type { description: r.description, specs: r.specs, qos: r.qos };
        self.types.insert(r.name.clone(), made);
        self.volume_type(&r.name)
    }

    pub(super) fn edit_type(&mut self, name: &str, r: EditType) -> Result<VolumeType, ApiError> {
        let before = self.volume_type(name)?;
        self.check_type(&r.specs, r.qos.as_ref())?;
        if before.volumes > 0 && r.specs.get(BACKEND).is_some_and(|to| before.specs.get(BACKEND) != Some(to))
        {
            return Err(error(ErrorCode::Busy, format!("volumes have the type {name:?}"))
                .with_hint("make another type for the other pool"));
        }
        match r.default {
            Some(true) => self.default_type = name.to_owned(),
            Some(false) if before.default => {
                let message = format!("{name:?} is the default type");
                return Err(
                    error(ErrorCode::InvalidArgument, message).with_hint("make another one the default")
                );
            }
            _ => {}
        }
        let edited = self.types.get_mut(name).expect("shown above");
        for (key, value) in r.specs {
            if value.is_empty() {
                edited.specs.remove(&key);
            } else {
                edited.specs.insert(key, value);
            }
        }
        if let Some(description) = r.description {
            edited.description = description;
        }
        if let Some(rule) = r.qos {
            edited.qos = Some(rule).filter(|rule| !rule.is_empty());
        }
        self.volume_type(name)
    }

    pub(super) fn delete_type(&mut self, name: &str) -> Result<(), ApiError> {
        let found = self.volume_type(name)?;
        if found.volumes > 0 || found.default || name == DEFAULT_TYPE {
            let why = if found.volumes > 0 { "in use" } else { "the default" };
            return Err(error(ErrorCode::Busy, format!("type {name:?} is {why}")));
        }
        self.types.remove(name);
        Ok(())
    }

    pub(super) fn retype(&mut self, volume: &str, to: String) -> Result<Volume, ApiError> {
        let pool = self.settings(volume)?.pool.clone();
        if self.pool_of_type(&to)? != pool {
            let message = format!("type {to:?} is for another pool");
            return Err(error(ErrorCode::InvalidArgument, message));
        }
        self.settings(volume)?.volume_type = to;
        self.volume(volume)
    }

    pub(super) fn policy(&self, name: &str) -> Result<QosPolicy, ApiError> {
        let Some(found) = self.policies.get(name) else {
            return Err(error(ErrorCode::NotFound, format!("there is no QoS rule {name:?}")));
        };
        let points_here = |(_, t): &(&String, &Type)| t.qos.as_deref() == Some(name);
        Ok(QosPolicy {
            name: name.to_owned(),
            description: found.description.clone(),
            rule: found.rule,
            types: self.types.iter().filter(points_here).map(|(name, _)| name.clone()).collect(),
        })
    }

    pub(super) fn create_policy(&mut self, r: CreateQosPolicy) -> Result<QosPolicy, ApiError> {
        check_name(&r.name)?;
        if self.policies.contains_key(&r.name) {
            return Err(error(ErrorCode::Exists, format!("there is already a QoS rule {:?}", r.name)));
        }
        r.rule.validate()?;
        self.policies.insert(r.name.clone(), Policy { description: r.description, rule: r.rule });
        self.policy(&r.name)
    }

    pub(super) fn edit_policy(&mut self, name: &str, r: EditQosPolicy) -> Result<QosPolicy, ApiError> {
        let rule = merged(&self.policy(name)?.rule, &r.set)?;
        let edited = self.policies.get_mut(name).expect("shown above");
        edited.rule = rule;
        if let Some(description) = r.description {
            edited.description = description;
        }
        self.policy(name)
    }

    pub(super) fn delete_policy(&mut self, name: &str) -> Result<(), ApiError> {
        if let [first, ..] = &*self.policy(name)?.types {
            return Err(error(ErrorCode::Busy, format!("type {first:?} points to QoS rule {name:?}")));
        }
        self.policies.remove(name);
        Ok(())
    }

    pub(super) fn volume_qos(&mut self, volume: &str) -> Result<VolumeQos, ApiError> {
        let head = self.settings(volume)?;
        let (own, waits, volume_type) = (head.own, head.waits, head.volume_type.clone());
        let type_rule = self.typed(&volume_type)?.qos.clone();
        let (source, rule) = match &type_rule {
            _ if !own.is_unlimited() => (QosSource::Volume, own),
            Some(name) => (QosSource::Type, self.policy(name)?.rule),
            None => (QosSource::None, own),
        };
        Ok(VolumeQos {
            volume: volume.to_owned(),
            source,
            rule,
            own,
            volume_type,
            type_rule,
            waits: waits.0,
            waited_us: waits.1,
            waiting: waits.2,
        })
    }

    pub(super) fn set_volume_qos(&mut self, volume: &str, r: SetVolumeQos) -> Result<VolumeQos, ApiError> {
        let head = self.settings(volume)?;
        head.own = merged(&head.own, &r.set)?;
        self.volume_qos(volume)
    }
}
