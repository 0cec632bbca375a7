//! Sessions: notes that somebody is at work, so that a collection leaves alone what is not referred to yet.
//!
//! They save work, not data: a collection that overlooks one makes a writer store some chunks again. So nothing
//! waits for a session, none needs to be broken, and one that is not renewed for an hour counts as dead.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::core::Core;
use crate::envelope::{self, Kind};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::ObjectId;

/// How often a session is renewed.
const RENEW: Duration = Duration::from_secs(5 * 60);
/// A session not renewed for this long, in milliseconds, is dead.
const DEAD_AFTER: i64 = 3600 * 1000;

/// What somebody is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    Backup,
    Collect,
}

#[derive(Serialize, Deserialize)]
struct Text {
    work: Work,
    /// By the store's clock, in milliseconds since 1970; not known yet when first written.
    began: Option<i64>,
}

/// A session of one's own; the object goes with [`Session::end`].
pub(crate) struct Session {
    core: Arc<Core>,
    name: String,
    /// By the store's clock, in milliseconds since 1970.
    pub(crate) began: i64,
    renewal: JoinHandle<()>,
}

impl Session {
    pub(crate) async fn begin(core: &Arc<Core>, work: Work) -> Result<Session> {
        let name = Kind::Session.name(ObjectId::random()?);
        write(core, &name, &Text { work, began: None }).await?;
        let object = core.store.head(&name).await?.ok_or_else(|| {
            Error::new(
                ErrorKind::Store,
                format!("{name} was written and is not there: the store does not keep what it takes"),
            )
        })?;
        let renewed = (core.clone(), name.clone(), Text { work, began: Some(object.modified) });
        let renewal = tokio::spawn(async move {
            let (core, name, text) = renewed;
            loop {
                tokio::time::sleep(RENEW).await;
                if let Err(error) = write(&core, &name, &text).await {
                    tracing::debug!(%error, "a session could not be renewed");
                }
            }
        });
        Ok(Session { core: core.clone(), name, began: object.modified, renewal })
    }

    /// Ends the session; one that cannot be deleted dies by itself.
    pub(crate) async fn end(self) {
        self.renewal.abort();
        if let Err(error) = self.core.store.delete(&self.name).await {
            tracing::debug!(%error, "a session's object stays until it is collected");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

async fn write(core: &Core, name: &str, text: &Text) -> Result<()> {
    let json = serde_json::to_vec(text)
        .map_err(|e| Error::new(ErrorKind::InvalidArgument, "a session").because(e))?;
    core.store.put(name, envelope::seal(&core.keys, Kind::Session, name, &json)?).await
}

/// Somebody's session.
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) work: Work,
    pub(crate) began: i64,
    pub(crate) renewed: i64,
    /// Why it cannot be read; then it counts as one of a writer that began long ago.
    pub(crate) damage: Option<Error>,
}

impl Found {
    pub(crate) fn alive(&self, now: i64) -> bool {
        self.renewed > now - DEAD_AFTER
    }
}

/// Every session there is, dead ones too.
pub(crate) async fn list(core: &Core) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for object in core.store.list(Kind::Session.folder()).await? {
        let Some(contents) = core.store.find(&object.name).await? else { continue };
        let text = envelope::open(&core.keys, Kind::Session, &object.name, &contents).and_then(|json| {
            serde_json::from_slice::<Text>(&json)
                .map_err(|e| Error::corrupt(&object.name, "the session makes no sense").because(e))
        });
        let (work, began, damage) = match text {
            Ok(text) => (text.work, text.began.unwrap_or(object.modified), None),
            Err(error) => (Work::Backup, i64::MIN, Some(error)),
        };
        found.push(Found { name: object.name, work, began, renewed: object.modified, damage });
    }
    Ok(found)
}
