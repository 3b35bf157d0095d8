//! What a node answers on its port: services and pages for clients, services for other nodes.

use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use bbb_asset::Assets;
use bbb_digest::InstanceName;
use bbb_grpc::{
    Budgets, ClientTls, Doors, Port, RequiredHeader, TlsFiles,
    asset::Asset,
    execution::{Execution, ExecutionSettings},
    operations::Operations,
};
use bbb_lifecycle::TaskGroup;
use bbb_peer::work::WorkService;
use bbb_storage::{Bucket, Disk, Far, Instances, Stores, Tiered, TreeCache, Trees};

use crate::{
    cluster_page::ClusterPage,
    flags::{Settings, TlsFlags},
    logs::NodeLogs,
    membership::Membership,
    memory::MemorySplit,
    metrics,
    work::Work,
};

/// The largest blob that is taken where there is a bucket: what S3 takes in 10,000 parts of the usual size.
const MAX_BUCKET_BLOB_BYTES: u64 = 64 << 30;

/// What stands behind the doors.
#[derive(Clone, Copy)]
pub(crate) struct Behind<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) memory: MemorySplit,
    pub(crate) disk: &'a Arc<Disk>,
    pub(crate) bucket: Option<&'a Arc<Bucket>>,
    pub(crate) instances: &'a Arc<Instances>,
    pub(crate) work: &'a Work,
    pub(crate) logs: &'a NodeLogs,
    pub(crate) assets: &'a Assets,
    /// The cluster, and what its other nodes may ask this one for.
    pub(crate) cluster: Option<(&'a Membership, &'a Arc<Tiered>)>,
}

impl Behind<'_> {
    /// The port with all its doors. What others ask of the scheduler runs as tasks of `scheduler`.
    ///
    /// # Errors
    /// If `--required_header` cannot be one.
    pub(crate) fn port(
        &self,
        client_tls: Option<Arc<ClientTls>>,
        scheduler: &TaskGroup,
    ) -> anyhow::Result<Port> {
        let memory = self.memory;
        let budgets = Budgets::new(memory.requests_bytes, memory.uploads_bytes);
        let clients = self.clients(&budgets)?.with_pages(self.pages());
        let mut port = Port::new(memory.windows_bytes, clients);
        if let Some(tls) = client_tls {
            port = port.with_client_tls(tls);
        }
        if let Some((membership, tiered)) = self.cluster {
            // Other nodes upload nothing.
            let budgets = Budgets::new(memory.node_requests_bytes, 0);
            let mut doors = self.nodes(&budgets, membership, tiered);
            if let Work::Shared(dispatch) = self.work {
                let work = Arc::clone(dispatch) as Arc<dyn bbb_peer::work::Work>;
                doors = doors.with_service(WorkService::new(work, scheduler));
            }
            port = port
                .with_nodes(doors, membership.server_tls())
                .on_refused_node(membership.refusals_of_nodes());
        }
        Ok(port)
    }

    /// All services for clients.
    fn clients(&self, budgets: &Budgets) -> anyhow::Result<Doors> {
        let Self { settings, instances, work, logs, .. } = *self;
        let dispatch = work.dispatch();
        let required_header = settings.required_header.as_ref();
        let required_header = required_header
            .map(|header| format!("{}={}", header.name, header.value).parse::<RequiredHeader>())
            .transpose()
            .context("--required_header")?;
        // In a cluster other nodes may have slots.
        let exec_enabled = settings.worker_slots > 0 || matches!(work, Work::Shared(_));
        let execution =
            ExecutionSettings { action_timeout: settings.action_timeout, enabled: exec_enabled };
        let for_clients = bbb_grpc::Settings {
            client_results: settings.client_results,
            exec_enabled,
            required_header,
            max_blob_bytes: max_blob_bytes(settings),
        };
        let all = Arc::clone(&logs.all);
        Ok(Doors::with_logs(for_clients, budgets, Arc::clone(instances), all)
            .with_service(
                Execution::new(Arc::clone(instances), Arc::clone(&dispatch), execution)
                    .into_server(),
            )
            .with_service(Operations::new(dispatch).into_server())
            .with_assets(self.asset()))
    }

    /// The assets, fetched by whichever node owns them.
    fn asset(&self) -> Asset {
        let asset = Asset::new(self.assets.clone(), self.settings.client_results);
        match self.cluster {
            Some((membership, _)) => asset.with_elsewhere(Arc::new(membership.share_assets())),
            None => asset,
        }
    }

    /// All services for other nodes: the blobs and results that they may ask this one for, what lies on its disk alone, and
    /// who it is.
    fn nodes(&self, budgets: &Budgets, membership: &Membership, tiered: &Arc<Tiered>) -> Doors {
        let Self { settings, disk, logs, .. } = *self;
        let max_blob_bytes = max_blob_bytes(settings);
        let stores = |far: Far, name: &InstanceName| {
            let trees = Arc::new(TreeCache::new(0));
            let trees = Arc::new(Trees::new(name.clone(), Arc::clone(&far.cas), trees));
            Stores { cas: far.cas, action_cache: far.results, trees }
        };
        let tiered = Arc::clone(tiered);
        let shared = Instances::new(move |name| stores(tiered.for_peers(name), name));
        let near = Arc::clone(disk);
        let near = Instances::new(move |name| {
            let far = Far { cas: near.cas(name), results: near.action_cache(name) };
            stores(far, name)
        });
        Doors::for_nodes(
            max_blob_bytes,
            budgets,
            Arc::new(shared),
            Some(Arc::clone(&logs.local) as _),
        )
        .with_service(Asset::new(self.assets.clone(), false).into_fetch_server())
        .with_service(membership.service(disk))
        .with_doors_under("/near", Doors::for_nodes_near(max_blob_bytes, budgets, Arc::new(near)))
    }

    /// The pages of the node.
    fn pages(&self) -> Router {
        let Self { settings, disk, bucket, work, .. } = *self;
        let page = ClusterPage {
            node_name: settings.node_name.clone(),
            disk: Arc::clone(disk),
            bucket: bucket.cloned(),
            cluster: self.cluster.map(|(membership, _)| membership.shown()),
            work: work.clone(),
        };
        page.routes().merge(metrics::routes(work.clone(), settings.worker_slots as u64))
    }
}

/// The largest blob that is taken: through the disk one passes into the bucket, whatever its size.
pub(crate) fn max_blob_bytes(settings: &Settings) -> u64 {
    match settings.bucket {
        Some(_) => MAX_BUCKET_BLOB_BYTES,
        None => settings.cache_size_bytes / 2,
    }
}

/// Reads the certificates for clients.
pub(crate) fn client_tls(flags: &TlsFlags) -> anyhow::Result<Arc<ClientTls>> {
    let TlsFlags { cert, key, client_ca } = flags.clone();
    Ok(Arc::new(ClientTls::open(TlsFiles { cert, key, client_ca })?))
}
