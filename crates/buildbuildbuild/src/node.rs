//! The one place where a node is put together, and taken apart again.
//!
//! Parts know each other by their seams alone; which part stands behind which seam, who owns which task and in
//! what order all of it stops is decided here and nowhere else.

use std::{io, sync::Arc, time::Duration};

use anyhow::Context as _;
use bbb_digest::InstanceName;
use bbb_grpc::{
    Budgets, ClientTls, Doors, Port, RequiredHeader, TlsFiles,
    execution::{Execution, ExecutionSettings},
    operations::Operations,
};
use bbb_lifecycle::{Signals, TaskGroup};
use bbb_sandbox::Mode;
use bbb_scheduler::{Dispatch, Scheduler, WorkerOffer, core::Limits};
use bbb_storage::{
    ActionCache, Bucket, BucketSettings, Cas, Complete, Disk, DiskSettings, Far, Instances,
    LocalFiles, Stores, Tiered, TieredSettings, TreeCache, Trees, WriteBackSettings,
};
use bbb_worker::{Keep, Local, Slots};
use tokio::net::TcpListener;

use crate::{
    flags::{BucketFlags, KeepExecRoot, SandboxChoice, Settings, TlsFlags, remember_cache_size},
    greeting::{Bound, greeting},
    memory::MemorySplit,
};

/// How long a group of tasks has to stop once nothing needs it any more.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// The largest blob that is taken where there is a bucket: what S3 takes in 10,000 parts of the usual size.
const MAX_BUCKET_BLOB_BYTES: u64 = 64 << 30;

/// The groups of a node's tasks, in the order in which they stop: whoever asks before whoever answers.
struct Groups {
    doors: TaskGroup,
    worker: TaskGroup,
    scheduler: TaskGroup,
    cleaning: TaskGroup,
    tiers: TaskGroup,
    bucket: TaskGroup,
    disk: TaskGroup,
}

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
    // Nothing is served behind less than what was asked for.
    let keyed = settings.cluster.as_ref().is_some_and(|cluster| !cluster.secret_keys.is_empty());
    anyhow::ensure!(!keyed, "--secret_key would do nothing: clusters come with a later release");
    let client_tls = settings.tls.as_ref().map(client_tls).transpose()?;
    let mut signals = Signals::listen()?;
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("cannot listen on {} (--listen, --port)", settings.listen))?;
    let groups = Groups {
        doors: TaskGroup::new("doors"),
        worker: TaskGroup::new("worker"),
        scheduler: TaskGroup::new("scheduler"),
        cleaning: TaskGroup::new("cleaning"),
        tiers: TaskGroup::new("tiers"),
        bucket: TaskGroup::new("bucket"),
        disk: TaskGroup::new("disk"),
    };
    let memory = match settings.bucket {
        Some(_) => MemorySplit::with_bucket(settings.memory_bytes),
        None => MemorySplit::embedded(settings.memory_bytes),
    };
    // The bucket first: what is wrong with it is told before anything is made here.
    let bucket = match &settings.bucket {
        Some(flags) => tokio::select! {
            opened = open_bucket(flags, &settings, memory, &groups.bucket) => Some(opened?),
            signal = signals.next() => anyhow::bail!("{signal} came while the bucket was tried"),
        },
        None => None,
    };
    let disk = open_disk(&settings, memory, &groups.disk).await?;
    let storage = match bucket {
        Some(bucket) => {
            Storage::Tiered(tiers(&disk, bucket, &settings, memory, &groups.tiers).await?)
        }
        None => Storage::Embedded(Arc::clone(&disk)),
    };
    let instances = instances(&storage, memory);
    let dispatch: Arc<dyn Dispatch> = Scheduler::start(&groups.scheduler, Limits::default());
    if settings.worker_slots > 0 {
        start_worker(&settings, &disk, storage, &instances, &dispatch, &groups).await?;
    }
    let bound = listener.local_addr().context("cannot tell the own address")?;
    let budgets = Budgets::new(memory.requests_bytes, memory.uploads_bytes);
    let clients = client_doors(&settings, &budgets, instances, dispatch)?;
    let mut port = Port::new(memory.windows_bytes, clients);
    if let Some(tls) = client_tls {
        port = port.with_client_tls(tls);
    }
    port.serve(listener, &groups.doors);
    greet(&settings, Bound { port: bound, gossip: None });

    let failure = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "stopping; a second signal does not wait for running actions");
            None
        }
        story = any_failure(&groups) => Some(story),
    };
    tokio::select! {
        () = stop(&groups, settings.drain_timeout) => {}
        signal = signals.next() => tracing::warn!(signal, "stopping at once"),
    }
    disk.close().await.context("cannot close the store")?;
    match failure {
        Some(story) => Err(anyhow::anyhow!("a part of the node has failed: {story}")),
        None => Ok(()),
    }
}

/// Reads the certificates for clients.
fn client_tls(flags: &TlsFlags) -> anyhow::Result<Arc<ClientTls>> {
    let TlsFlags { cert, key, client_ca } = flags.clone();
    Ok(Arc::new(ClientTls::open(TlsFiles { cert, key, client_ca })?))
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

/// The disk in front of the bucket.
async fn tiers(
    disk: &Arc<Disk>,
    bucket: Arc<Bucket>,
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
    let far = move |name: &InstanceName| Far {
        cas: bucket.cas(name),
        results: bucket.action_cache(name),
    };
    let tiered = Tiered::new(&tiered, disk, far, tasks);
    let write_back = match write_back {
        true => WriteBackSettings::default(),
        // An earlier run may have had the flag.
        false => WriteBackSettings::leftovers(),
    };
    let tiered = tiered.with_write_back(write_back, tasks).await;
    let tiered = tiered.context("cannot go on with what is to be written back (--cache_dir)")?;
    Ok(Arc::new(tiered))
}

impl Storage {
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

/// Starts the sandbox and a worker with its slots, and attaches them to the scheduler.
async fn start_worker(
    settings: &Settings,
    disk: &Arc<Disk>,
    storage: Storage,
    instances: &Arc<Instances>,
    dispatch: &Arc<dyn Dispatch>,
    groups: &Groups,
) -> anyhow::Result<()> {
    let folder = disk.dir().join("actions");
    // The sandbox opens its folders once, at its start.
    std::fs::create_dir_all(&folder).context("cannot make the worker's folder (--cache_dir)")?;
    let mut config = bbb_sandbox::Config::new(folder.clone());
    config.mode = match settings.sandbox {
        SandboxChoice::Auto => Mode::Auto,
        SandboxChoice::Namespaces => Mode::Namespaces,
        SandboxChoice::None => Mode::None,
    };
    let sandbox =
        bbb_sandbox::start(config).await.context("cannot start the sandbox (--sandbox)")?;
    tracing::info!("{}", bbb_sandbox::Sandbox::probe(&sandbox));
    let mut worker = bbb_worker::Settings::new(&settings.node_name, folder);
    worker.download_concurrency = settings.download_concurrency;
    worker.network = settings.sandbox_network;
    worker.input_root = (settings.platform.iter())
        .find(|(name, _)| name == "InputRootAbsolutePath")
        .map(|(_, path)| path.into());
    worker.keep = match settings.keep_exec_root {
        KeepExecRoot::Never => Keep::None,
        KeepExecRoot::Failed => Keep::Failed,
        KeepExecRoot::All => Keep::All,
    };
    let local = Local::new(worker, Arc::clone(instances), Arc::new(sandbox), &groups.cleaning)
        .context("cannot set up the worker")?
        .linking(move |instance| storage.local_files(instance));
    let offer = WorkerOffer {
        name: settings.node_name.clone(),
        slots: u32::try_from(settings.worker_slots)?,
        platform: settings.platform.iter().cloned().collect(),
    };
    Slots::new(offer, Arc::clone(dispatch), Arc::new(local)).start(&groups.worker);
    Ok(())
}

/// All services for clients.
fn client_doors(
    settings: &Settings,
    budgets: &Budgets,
    instances: Arc<Instances>,
    dispatch: Arc<dyn Dispatch>,
) -> anyhow::Result<Doors> {
    let required_header = settings.required_header.as_ref();
    let required_header = required_header
        .map(|header| format!("{}={}", header.name, header.value).parse::<RequiredHeader>())
        .transpose()
        .context("--required_header")?;
    let exec_enabled = settings.worker_slots > 0;
    let execution =
        ExecutionSettings { action_timeout: settings.action_timeout, enabled: exec_enabled };
    let for_clients = bbb_grpc::Settings {
        client_results: settings.client_results,
        exec_enabled,
        required_header,
        max_blob_bytes: max_blob_bytes(settings),
    };
    Ok(Doors::new(for_clients, budgets, Arc::clone(&instances))
        .with_service(Execution::new(instances, Arc::clone(&dispatch), execution).into_server())
        .with_service(Operations::new(dispatch).into_server()))
}

/// The largest blob that is taken: through the disk one passes into the bucket, whatever its size.
fn max_blob_bytes(settings: &Settings) -> u64 {
    match settings.bucket {
        Some(_) => MAX_BUCKET_BLOB_BYTES,
        None => settings.cache_size_bytes / 2,
    }
}

/// Says in a few lines what the node is and how to use it: the lines on the terminal, warnings in the log too.
fn greet(settings: &Settings, bound: Bound) {
    let greeting = greeting(settings, bound);
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
    tokio::select! {
        story = groups.doors.failed() => story,
        story = groups.worker.failed() => story,
        story = groups.scheduler.failed() => story,
        story = groups.cleaning.failed() => story,
        story = groups.tiers.failed() => story,
        story = groups.bucket.failed() => story,
        story = groups.disk.failed() => story,
    }
}

/// Takes no more calls and waits for those that are open, actions included; then stops everything else.
async fn stop(groups: &Groups, drain_timeout: Duration) {
    groups.doors.shut_down(drain_timeout).await;
    let behind = [&groups.worker, &groups.scheduler, &groups.cleaning];
    let storage = [&groups.tiers, &groups.bucket, &groups.disk];
    for group in behind.into_iter().chain(storage) {
        group.shut_down(STOP_GRACE).await;
    }
}
