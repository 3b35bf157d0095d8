//! The one place where a node is put together, and taken apart again.
//!
//! Parts know each other by their seams alone; which part stands behind which seam, who owns which task and in
//! what order all of it stops is decided here and nowhere else.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use bbb_digest::InstanceName;
use bbb_lifecycle::{Signals, TaskGroup};
use bbb_peer::PeerTier;
use bbb_sandbox::Mode;
use bbb_scheduler::{Demand, Dispatch, Scheduler, WorkerOffer, core::Limits, steering::INPUT_ROOT};
use bbb_storage::{
    ActionCache, Bucket, BucketSettings, Cas, Complete, Disk, DiskSettings, Far, Instances,
    LocalFiles, Stores, Tiered, TieredSettings, TreeCache, Trees, WriteBackSettings,
};
use bbb_worker::{Keep, Local, Slots, usual_prefetch};
use tokio::{net::TcpListener, time::Instant};

use crate::{
    assets::assets,
    doors::{self, Behind},
    flags::{BucketFlags, KeepExecRoot, SandboxChoice, Settings, remember_cache_size},
    greeting::{Bound, Workplace, greeting},
    groups::Groups,
    logs::NodeLogs,
    membership::Membership,
    memory::MemorySplit,
    open_files,
    work::Work,
};

/// How long a group of tasks has to stop once nothing needs it any more.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// How long what did not end in the time for draining may still take to be cut off.
const CUT_GRACE: Duration = Duration::from_secs(1);

/// What stands behind the seams.
#[derive(Clone)]
enum Storage {
    /// The disk of this machine alone.
    Embedded(Arc<Disk>),
    /// The disk in front of a bucket.
    Tiered(Arc<Tiered>),
}

/// Runs a node until a signal ends it.
///
/// # Errors
/// If it cannot be started, or a part of it has failed.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let client_tls = settings.tls.as_ref().map(doors::client_tls).transpose()?;
    let mut signals = Signals::listen()?;
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("cannot listen on {} (--listen, --port)", settings.listen))?;
    let bound = listener.local_addr().context("cannot tell the own address")?;
    let groups = Groups::new();
    let memory = memory_split(&settings);
    // The bucket first: what is wrong with it is told before anything is made here.
    let bucket = match &settings.bucket {
        Some(flags) => tokio::select! {
            opened = open_bucket(flags, &settings, memory, &groups.bucket) => Some(opened?),
            signal = signals.next() => anyhow::bail!("{signal} came while the bucket was tried"),
        },
        None => None,
    };
    let membership = join_cluster(&settings, bound, bucket.as_ref(), memory, &groups).await?;
    let disk = open_disk(&settings, memory, &groups.disk).await?;
    let storage = match &bucket {
        Some(bucket) => {
            let tier = membership.as_ref().map(|membership| Arc::clone(membership.tier()));
            let bucket = Arc::clone(bucket);
            Storage::Tiered(tiers(&disk, bucket, tier, &settings, memory, &groups.tiers).await?)
        }
        None => Storage::Embedded(Arc::clone(&disk)),
    };
    let instances = instances(&storage, memory);
    let work = match &membership {
        Some(membership) => Work::Shared(membership.share_work(&groups.scheduler, &groups.peers)),
        None => Work::Alone(Scheduler::start(&groups.scheduler, Limits::default())),
    };
    let dispatch = work.dispatch();
    let logs = NodeLogs::start(
        &settings.node_name,
        &disk,
        bucket.as_ref(),
        membership.as_ref(),
        &instances,
        &groups.tiers,
        groups.doors.stop(),
    )
    .context("cannot make the folder of logs (--cache_dir)")?;
    let assets = assets(
        &settings.fetch,
        &disk,
        bucket.as_ref(),
        membership.as_ref(),
        &instances,
        doors::max_blob_bytes(&settings),
        &groups.assets,
    );
    let mut workplace = None;
    if settings.worker_slots > 0 {
        let storage = storage.clone();
        let worker = Worker { disk: &disk, memory, storage, logs: &logs };
        workplace = Some(start_worker(&settings, worker, &instances, &dispatch, &groups).await?);
    }
    // Now that the sandbox has started: actions are to have the usual limit.
    open_files::raise_limit();
    let behind = Behind {
        settings: &settings,
        memory,
        disk: &disk,
        bucket: bucket.as_ref(),
        instances: &instances,
        work: &work,
        logs: &logs,
        assets: &assets,
        cluster: membership.as_ref().zip(storage.tiered()),
    };
    behind.port(client_tls, &groups.scheduler)?.serve(listener, &groups.doors);
    let gossip = membership.as_ref().map(Membership::bound);
    greet(&settings, Bound { port: bound, gossip }, workplace.as_ref());
    // Now that it can be asked for what it has.
    if let (Some(membership), Some(flags), Some(bucket)) = (&membership, &settings.cluster, &bucket)
    {
        membership.measure(&disk, &work, &groups.gossip);
        membership.meet(flags, bucket, &groups.meeting)?;
    }
    until_the_end(signals, &groups, membership.as_ref(), settings.drain_timeout, &disk).await
}

/// What each part of the node may take of `--memory`.
fn memory_split(settings: &Settings) -> MemorySplit {
    match settings.bucket {
        Some(_) => MemorySplit::with_bucket(settings.memory_bytes),
        None => MemorySplit::embedded(settings.memory_bytes),
    }
}

/// Becomes a member of the cluster, if there is to be one. It is not met yet.
async fn join_cluster(
    settings: &Settings,
    bound: SocketAddr,
    bucket: Option<&Arc<Bucket>>,
    memory: MemorySplit,
    groups: &Groups,
) -> anyhow::Result<Option<Membership>> {
    let (Some(flags), Some(bucket)) = (&settings.cluster, bucket) else { return Ok(None) };
    let groups = (&groups.gossip, &groups.peers);
    let hints_bytes = memory.hints_bytes;
    Membership::start(flags, settings, bound, bucket, hints_bytes, groups).await.map(Some)
}

/// Waits for the word to stop, or for a part that fails, and stops everything in order.
async fn until_the_end(
    mut signals: Signals,
    groups: &Groups,
    membership: Option<&Membership>,
    drain_timeout: Duration,
    disk: &Arc<Disk>,
) -> anyhow::Result<()> {
    let failure = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "stopping; a second signal does not wait for running actions");
            None
        }
        story = any_failure(groups) => Some(story),
    };
    tokio::select! {
        () = stop(groups, membership, drain_timeout) => {}
        signal = signals.next() => tracing::warn!(signal, "stopping at once"),
    }
    disk.close().await.context("cannot close the store")?;
    match failure {
        Some(story) => Err(anyhow::anyhow!("a part of the node has failed: {story}")),
        None => Ok(()),
    }
}

/// Connects to the bucket and tries it.
async fn open_bucket(
    flags: &BucketFlags,
    settings: &Settings,
    memory: MemorySplit,
    tasks: &TaskGroup,
) -> anyhow::Result<Arc<Bucket>> {
    let bucket = BucketSettings {
        region: flags.region.clone(),
        endpoint: flags.endpoint.clone(),
        virtual_hosted_style: flags.virtual_hosted_style,
        compress: flags.compress,
        concurrency: settings.download_concurrency,
        buffer_bytes: memory.bucket_bytes,
        expire_after: flags.expire_after,
        ..BucketSettings::new(flags.location.clone())
    };
    Ok(Bucket::open(bucket, tasks).await?)
}

/// The disk in front of the bucket; what other nodes own is behind them.
async fn tiers(
    disk: &Arc<Disk>,
    bucket: Arc<Bucket>,
    peers: Option<Arc<PeerTier>>,
    settings: &Settings,
    memory: MemorySplit,
    tasks: &TaskGroup,
) -> anyhow::Result<Arc<Tiered>> {
    let write_back = settings.bucket.as_ref().is_some_and(|flags| flags.write_back);
    let tiered = TieredSettings {
        buffer_bytes: memory.fetches_bytes,
        results_bytes: memory.results_bytes,
        ..TieredSettings::default()
    };
    let tiered = match peers {
        Some(peers) => {
            let (is_own, own, others) = (Arc::clone(&peers), Arc::clone(&peers), peers);
            Tiered::new(&tiered, disk, move |name| own.own(name), tasks).with_others(
                memory.peers_bytes,
                move |digest| is_own.is_own(digest),
                move |name, own| others.others(name, own),
                tasks,
            )
        }
        None => {
            let far = move |name: &InstanceName| Far {
                cas: bucket.cas(name),
                results: bucket.action_cache(name),
            };
            Tiered::new(&tiered, disk, far, tasks)
        }
    };
    let write_back = match write_back {
        true => WriteBackSettings { drain: settings.drain_timeout, ..WriteBackSettings::default() },
        // An earlier run may have had the flag.
        false => WriteBackSettings::leftovers(),
    };
    let tiered = tiered.with_write_back(write_back, tasks).await;
    let tiered = tiered.context("cannot go on with what is to be written back (--cache_dir)")?;
    Ok(Arc::new(tiered))
}

impl Storage {
    fn tiered(&self) -> Option<&Arc<Tiered>> {
        match self {
            Self::Embedded(_) => None,
            Self::Tiered(tiered) => Some(tiered),
        }
    }

    fn cas(&self, instance: &InstanceName) -> Arc<dyn Cas> {
        match self {
            Self::Embedded(disk) => disk.cas(instance),
            Self::Tiered(tiered) => tiered.cas(instance),
        }
    }

    fn action_cache(&self, instance: &InstanceName) -> Arc<dyn ActionCache> {
        match self {
            Self::Embedded(disk) => disk.action_cache(instance),
            Self::Tiered(tiered) => tiered.action_cache(instance),
        }
    }

    fn local_files(&self, instance: &InstanceName) -> Arc<dyn LocalFiles> {
        match self {
            Self::Embedded(disk) => disk.local_files(instance),
            Self::Tiered(tiered) => tiered.local_files(instance),
        }
    }
}

/// Opens the disk tier.
async fn open_disk(
    settings: &Settings,
    memory: MemorySplit,
    tasks: &TaskGroup,
) -> anyhow::Result<Arc<Disk>> {
    let disk_settings = DiskSettings {
        memory_bytes: memory.blobs_bytes,
        ..DiskSettings::new(&settings.cache_dir, settings.cache_size_bytes)
    };
    let tasks = tasks.clone();
    // It waits for the disk, though not for the index.
    let disk = tokio::task::spawn_blocking(move || Disk::open(disk_settings, &tasks)).await?;
    let disk = disk.context("cannot open the store (--cache_dir)")?;
    remember_cache_size(&settings.cache_dir, settings.cache_size_bytes)
        .context("cannot write to the store's folder (--cache_dir)")?;
    Ok(disk)
}

/// What each instance stores; results only while they are complete.
fn instances(storage: &Storage, memory: MemorySplit) -> Arc<Instances> {
    let storage = storage.clone();
    let cache = Arc::new(TreeCache::new(memory.trees_bytes));
    Arc::new(Instances::new(move |name| {
        let cas = storage.cas(name);
        let trees = Arc::new(Trees::new(name.clone(), Arc::clone(&cas), Arc::clone(&cache)));
        let results = storage.action_cache(name);
        let complete = Complete::new(results, Arc::clone(&cas), Arc::clone(&trees));
        Stores { cas, action_cache: Arc::new(complete), trees }
    }))
}

/// What a worker works with.
struct Worker<'a> {
    memory: MemorySplit,
    disk: &'a Arc<Disk>,
    storage: Storage,
    logs: &'a NodeLogs,
}

/// Starts the sandbox and a worker with its slots, and attaches them to the scheduler. Returns what they found.
async fn start_worker(
    settings: &Settings,
    Worker { disk, memory, storage, logs }: Worker<'_>,
    instances: &Arc<Instances>,
    dispatch: &Arc<dyn Dispatch>,
    groups: &Groups,
) -> anyhow::Result<Workplace> {
    let folder = disk.dir().join("actions");
    // The sandbox opens its folders once, at its start.
    std::fs::create_dir_all(&folder).context("cannot make the worker's folder (--cache_dir)")?;
    let mut config = bbb_sandbox::Config::new(folder.clone());
    config.mode = match settings.sandbox {
        SandboxChoice::Auto => Mode::Auto,
        SandboxChoice::Namespaces => Mode::Namespaces,
        SandboxChoice::None => Mode::None,
    };
    config.extra_system_folders.clone_from(&settings.sandbox_folders);
    let sandbox =
        bbb_sandbox::start(config).await.context("cannot start the sandbox (--sandbox)")?;
    let probe = bbb_sandbox::Sandbox::probe(&sandbox).clone();
    let mut worker = bbb_worker::Settings::new(&settings.node_name, &folder);
    worker.download_concurrency = settings.download_concurrency;
    worker.staged_bytes = memory.staged_bytes;
    worker.network = settings.sandbox_network;
    worker.input_root = (settings.platform.iter())
        .find(|(name, _)| name == INPUT_ROOT)
        .map(|(_, path)| path.into());
    worker.keep = match settings.keep_exec_root {
        KeepExecRoot::Never => Keep::None,
        KeepExecRoot::Failed => Keep::Failed,
        KeepExecRoot::All => Keep::All,
    };
    let local = Local::new(worker, Arc::clone(instances), Arc::new(sandbox), &groups.cleaning)
        .context("cannot set up the worker")?
        .linking(move |instance| storage.local_files(instance))
        .keeping_trees(disk.lodging(), &groups.cleaning)
        .context("cannot make a folder for staged trees (--cache_dir)")?
        .showing(Arc::clone(&logs.local));
    let ladder = local.ladder().clone();
    Slots::new(offer(settings)?, Arc::clone(dispatch), Arc::new(local))
        .draining_for(settings.drain_timeout)
        .start(&groups.worker);
    Ok(Workplace { probe, ladder, folder })
}

/// What this node's worker presents itself with: of the machine all that the node does not need itself.
fn offer(settings: &Settings) -> anyhow::Result<WorkerOffer> {
    let slots = u32::try_from(settings.worker_slots)?;
    Ok(WorkerOffer {
        platform: settings.platform.iter().cloned().collect(),
        prefetch: usual_prefetch(slots),
        capacity: Demand {
            millicpus: 1000 * settings.cores as u64,
            memory_bytes: settings.machine_memory_bytes.saturating_sub(settings.memory_bytes),
        },
        ..WorkerOffer::of(settings.node_name.clone(), slots)
    })
}

/// Says in a few lines what the node is and how to use it: the lines on the terminal, warnings in the log too.
fn greet(settings: &Settings, bound: Bound, workplace: Option<&Workplace>) {
    let greeting = greeting(settings, bound, workplace);
    let mut out = io::stdout().lock();
    for line in &greeting.lines {
        // Who closes our output does not want to be greeted.
        let _closed = io::Write::write_all(&mut out, format!("{line}\n").as_bytes());
    }
    for warning in &greeting.warnings {
        tracing::warn!("{warning}");
    }
}

/// Resolves when a part has failed in a way that it cannot recover from.
async fn any_failure(groups: &Groups) -> String {
    let failed = groups.in_order().map(|group| Box::pin(group.failed()));
    let (story, ..) = futures::future::select_all(failed).await;
    story
}

/// Drains the node: tells the others, takes no more calls, waits for those that are open, actions included, and for what is
/// still to be uploaded; then leaves the cluster and stops everything else. In a cluster the worker leaves with the doors,
/// for others run what it gives back; alone it is what open calls wait for.
async fn stop(groups: &Groups, membership: Option<&Membership>, drain_timeout: Duration) {
    if let Some(membership) = membership {
        membership.set_leaving();
    }
    let drained_by = Instant::now() + drain_timeout;
    let left = || drained_by.saturating_duration_since(Instant::now());
    groups.meeting.shut_down(STOP_GRACE).await;
    let doors = groups.doors.shut_down(left());
    match membership {
        // It needs a moment more, to kill what it gives back.
        Some(_) => tokio::join!(doors, groups.worker.shut_down(left() + STOP_GRACE)).0,
        None => doors.await,
    };
    // An action whose client is gone, and what is written back, have the same time.
    for group in
        [&groups.assets, &groups.worker, &groups.scheduler, &groups.cleaning, &groups.tiers]
    {
        group.shut_down(left().max(CUT_GRACE)).await;
    }
    if let Some(membership) = membership {
        membership.leave().await;
    }
    for group in [&groups.peers, &groups.gossip, &groups.bucket, &groups.disk] {
        group.shut_down(STOP_GRACE).await;
    }
}
