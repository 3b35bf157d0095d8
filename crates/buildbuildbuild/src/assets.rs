//! The remote assets of a node, put together.

use std::{
    io,
    net::{IpAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use bbb_asset::{Assets, IsOwn, Kind, Origins, Reach, RecordsOf};
use bbb_digest::{Digest, InstanceName};
use bbb_grpc::asset;
use bbb_lifecycle::TaskGroup;
use bbb_peer::assets::{Asset, SharedAssets};
use bbb_reapi::proto::asset::{FetchBlobRequest, FetchBlobResponse};
use bbb_storage::{ActionCache, Bucket, Disk, Instances};
use rustix::io::Errno;
use tonic::async_trait;

use crate::{flags::FetchFlags, membership::Membership};

/// The assets of a node. Their records stand in the bucket if there is one, else on the disk; what is fetched by `tasks` has
/// `limit_bytes` at the most.
pub(crate) fn assets(
    flags: &FetchFlags,
    disk: &Arc<Disk>,
    bucket: Option<&Arc<Bucket>>,
    membership: Option<&Membership>,
    instances: &Arc<Instances>,
    limit_bytes: u64,
    tasks: &TaskGroup,
) -> Assets {
    let (near, far) = (Arc::clone(disk), bucket.cloned());
    let records: RecordsOf = Box::new(move |name: &InstanceName| -> Arc<dyn ActionCache> {
        match &far {
            Some(bucket) => bucket.assets(name),
            None => near.assets(name),
        }
    });
    let view = membership.map(Membership::view);
    let is_own: IsOwn = Arc::new(move |address| {
        let is_member = view.as_ref().is_some_and(|view| {
            let view = view.borrow();
            let mut members = view.members().iter();
            members.any(|member| [member.id.port.ip(), member.id.gossip.ip()].contains(&address))
        });
        is_member || is_of_this_machine(address)
    });
    let reach = Reach::new(flags.allow.clone(), flags.only.clone(), is_own);
    let origins = Origins::from_env(reach);
    Assets::new(Arc::clone(instances), records, Arc::clone(disk), origins, limit_bytes, tasks)
}

/// The nodes that own assets, as the doors ask them.
#[derive(Debug)]
pub(crate) struct Elsewhere(pub(crate) SharedAssets);

#[async_trait]
impl asset::Elsewhere for Elsewhere {
    async fn fetch(
        &self,
        kind: Kind,
        key: Digest,
        timeout: Duration,
        request: FetchBlobRequest,
    ) -> Option<FetchBlobResponse> {
        let asset = match kind {
            Kind::Blob => Asset::Blob,
            Kind::Directory => Asset::Directory,
        };
        self.0.fetch(asset, key, request, timeout).await
    }
}

/// What can be bound to is an address of this machine. So is, to be safe, what cannot be found out, as when no descriptor is left.
fn is_of_this_machine(address: IpAddr) -> bool {
    match UdpSocket::bind((address, 0)) {
        Ok(_) => true,
        Err(error) => !is_absent(&error),
    }
}

/// Whether this is that the address is not there: no interface has it, or none has any of its kind.
fn is_absent(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known() {
        assert!(is_of_this_machine("127.0.0.1".parse().unwrap()));
        assert!(!is_of_this_machine("192.0.2.1".parse().unwrap()));
        for (errno, expected) in [
            (Errno::ADDRNOTAVAIL, true),
            (Errno::AFNOSUPPORT, true),
            (Errno::MFILE, false),
            (Errno::NOBUFS, false),
        ] {
            assert_eq!(is_absent(&errno.into()), expected, "{errno}");
        }
    }
}
