//! Pools that hold nothing but numbers.

use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::pool::*;

use super::state::State;
use super::{check_name, error};

const RESERVE: u64 = 64 << 20;

pub(super) struct Pool {
    name: String,
    path: String,
    limit: u64,
    pub(super) used: u64,
    pub(super) broken: Option<String>,
}

impl Pool {
    /// The pool that the daemon was started on.
    pub(super) fn first() -> Pool {
        Pool {
            name: MAIN_POOL.into(),
            path: "/pool.cairn".into(),
            limit: 1 << 40,
            used: 1 << 30,
            broken: None,
        }
    }
}

fn not_found(name: &str) -> ApiError {
    error(ErrorCode::NotFound, format!("there is no pool {name:?}"))
}

impl State {
    pub(super) fn pool(&self, name: &str) -> Result<&Pool, ApiError> {
        self.pools.iter().find(|pool| pool.name == name).ok_or_else(|| not_found(name))
    }

    pub(super) fn pool_mut(&mut self, name: &str) -> Result<&mut Pool, ApiError> {
        self.pools.iter_mut().find(|pool| pool.name == name).ok_or_else(|| not_found(name))
    }

    /// Of the first pool without a name.
    pub(super) fn pool_status(&self, name: Option<&str>) -> Result<PoolStatus, ApiError> {
        let pool = match name {
            Some(name) => self.pool(name)?,
            None => &self.pools[0],
        };
        if let Some(why) = &pool.broken {
            return Err(error(ErrorCode::Io, format!("pool {:?} is not open: {why}", pool.name)));
        }
        let fill = match pool.used * 100 / pool.limit {
            ..80 => Fill::Ok,
            80..95 => Fill::High,
            _ => Fill::Critical,
        };
        Ok(PoolStatus {
            name: pool.name.clone(),
            path: pool.path.clone(),
            id: "00112233445566778899aabbccddeeff".into(),
            format: 1,
            limit: pool.limit,
            size: pool.used + RESERVE,
            used: pool.used,
            free: pool.limit.saturating_sub(pool.used + RESERVE),
            available: Some(1 << 41),
            reserve: RESERVE,
            fill,
            volumes: self.heads.values().filter(|head| head.pool == pool.name).count() as u64,
            snapshots: self.snapshots_in(&pool.name),
            images: self.images.len() as u64,
            pending_deletes: 0,
            fenced: None,
            journal_used: 4096,
            journal_size: 64 << 20,
            checkpoints: 2,
            barriers: 3,
            checksum_errors: 0,
        })
    }

    fn entry(&self, pool: &Pool) -> PoolEntry {
        PoolEntry {
            name: pool.name.clone(),
            path: pool.path.clone(),
            status: self.pool_status(Some(&pool.name)).ok(),
            error: pool.broken.clone(),
        }
    }

    pub(super) fn pool_list(&self) -> PoolList {
        let mut pools: Vec<_> = self.pools.iter().map(|pool| self.entry(pool)).collect();
        pools[1..].sort_by(|a, b| a.name.cmp(&b.name));
        PoolList { pools }
    }

    pub(super) fn create_pool(&mut self, r: CreatePool) -> Result<PoolEntry, ApiError> {
        check_name(&r.name)?;
        if !r.path.starts_with('/') {
            return Err(error(ErrorCode::InvalidArgument, format!("the path {:?} is not absolute", r.path)));
        }
        if self.pools.iter().any(|pool| pool.name == r.name || pool.path == r.path) {
            return Err(error(ErrorCode::Exists, format!("there is already a pool {:?}", r.name)));
        }
        let limit = r.limit.unwrap_or(1 << 40);
        let pool = Pool { name: r.name, path: r.path, limit, used: 0, broken: None };
        self.pools.push(pool);
        Ok(self.entry(self.pools.last().expect("one was added")))
    }

    pub(super) fn grow_pool(&mut self, name: &str, r: GrowPool) -> Result<PoolStatus, ApiError> {
        let pool = self.pool_mut(name)?;
        match r.limit {
            None => return Err(error(ErrorCode::InvalidArgument, "a pool on a file needs a limit")),
            Some(limit) if limit < pool.limit => {
                return Err(error(ErrorCode::Shrink, "a pool cannot get smaller"));
            }
            Some(limit) => pool.limit = limit,
        }
        self.pool_status(Some(name))
    }

    pub(super) fn remove_pool(&mut self, name: &str) -> Result<(), ApiError> {
        self.pool(name)?;
        let busy = |why: &str| Err(error(ErrorCode::Busy, format!("pool {name:?} {why}")));
        if name == MAIN_POOL {
            return busy("is the one that the daemon was started on");
        }
        if self.heads.values().any(|head| head.pool == name) {
            return busy("has volumes");
        }
        if self.types.values().any(|t| t.pool() == name) {
            return busy("is named by a type");
        }
        self.pools.retain(|pool| pool.name != name);
        Ok(())
    }

    pub(super) fn check(&self, name: Option<&str>, data: bool) -> Result<CheckReport, ApiError> {
        self.pool_status(name)?;
        let mut report = self.report.clone();
        report.data_verified = if data { report.data_blocks } else { 0 };
        Ok(report)
    }

    pub(super) fn scrub(&self, name: Option<&str>) -> Result<Scrub, ApiError> {
        let PoolStatus { name, .. } = self.pool_status(name)?;
        Ok(self.scrubs.get(&name).cloned().unwrap_or_else(|| Scrub {
            pool: name,
            state: ScrubState::None,
            started: None,
            ended: None,
            rate: None,
            read: 0,
            total: 0,
            nodes: 0,
            data_blocks: 0,
            fault_count: 0,
            faults: Vec::new(),
            error: None,
        }))
    }

    /// One that reads nothing until it is stopped.
    pub(super) fn start_scrub(
        &mut self,
        name: Option<&str>,
        request: &StartScrub,
    ) -> Result<Scrub, ApiError> {
        let before = self.scrub(name)?;
        if before.state == ScrubState::Running {
            return Err(error(ErrorCode::Busy, format!("a scrub of pool {:?} is under way", before.pool)));
        }
        let started = Some(jiff::Timestamp::now());
        let scrub =
            Scrub { state: ScrubState::Running, started, rate: request.rate, total: 1 << 30, ..before };
        self.scrubs.insert(scrub.pool.clone(), scrub.clone());
        Ok(scrub)
    }

    pub(super) fn stop_scrub(&mut self, name: Option<&str>) -> Result<Scrub, ApiError> {
        let mut scrub = self.scrub(name)?;
        if scrub.state == ScrubState::Running {
            scrub = Scrub { state: ScrubState::Stopped, ended: Some(jiff::Timestamp::now()), ..scrub };
            self.scrubs.insert(scrub.pool.clone(), scrub.clone());
        }
        Ok(scrub)
    }
}
