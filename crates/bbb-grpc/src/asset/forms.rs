//! One form for blobs and directories. The messages for directories have the fields of those for blobs, with the same numbers:
//! only names of messages and fields differ. Behind this module there are those for blobs alone.

use bbb_reapi::proto::asset::{
    FetchBlobRequest, FetchBlobResponse, FetchDirectoryRequest, FetchDirectoryResponse,
    PushBlobRequest, PushDirectoryRequest,
};

pub(super) fn fetch_request(request: FetchDirectoryRequest) -> FetchBlobRequest {
    let FetchDirectoryRequest {
        instance_name,
        timeout,
        oldest_content_accepted,
        uris,
        qualifiers,
        digest_function,
    } = request;
    FetchBlobRequest {
        instance_name,
        timeout,
        oldest_content_accepted,
        uris,
        qualifiers,
        digest_function,
    }
}

pub(super) fn fetch_response(response: FetchBlobResponse) -> FetchDirectoryResponse {
    let FetchBlobResponse { status, uri, qualifiers, expires_at, blob_digest, digest_function } =
        response;
    FetchDirectoryResponse {
        status,
        uri,
        qualifiers,
        expires_at,
        root_directory_digest: blob_digest,
        digest_function,
    }
}

pub(super) fn push_request(request: PushDirectoryRequest) -> PushBlobRequest {
    let PushDirectoryRequest {
        instance_name,
        uris,
        qualifiers,
        expire_at,
        root_directory_digest,
        references_blobs,
        references_directories,
        digest_function,
    } = request;
    PushBlobRequest {
        instance_name,
        uris,
        qualifiers,
        expire_at,
        blob_digest: root_directory_digest,
        references_blobs,
        references_directories,
        digest_function,
    }
}

#[cfg(test)]
mod tests {
    use bbb_reapi::proto::{asset::Qualifier, protobuf, reapi, rpc};
    use prost::Message;

    use super::*;

    fn read_as<M: Message + Default>(message: &impl Message) -> M {
        M::decode(&*message.encode_to_vec()).unwrap()
    }

    /// What `Elsewhere` relies on.
    #[test]
    fn both_forms_are_the_same_bytes() {
        let digest = |size_bytes| Some(reapi::Digest { hash: "a".into(), size_bytes });
        let time = |seconds| Some(protobuf::Timestamp { seconds, nanos: 1 });
        let qualifiers = vec![Qualifier { name: "n".into(), value: "v".into() }];
        let request = FetchDirectoryRequest {
            instance_name: "i".into(),
            timeout: Some(protobuf::Duration { seconds: 1, nanos: 2 }),
            oldest_content_accepted: time(3),
            uris: vec!["u".into()],
            qualifiers: qualifiers.clone(),
            digest_function: 4,
        };
        assert_eq!(fetch_request(request.clone()), read_as(&request));
        let response = FetchBlobResponse {
            status: Some(rpc::Status { code: 5, message: "m".into(), details: Vec::new() }),
            uri: "u".into(),
            qualifiers: qualifiers.clone(),
            expires_at: time(6),
            blob_digest: digest(7),
            digest_function: 8,
        };
        assert_eq!(fetch_response(response.clone()), read_as(&response));
        let push = PushDirectoryRequest {
            instance_name: "i".into(),
            uris: vec!["u".into()],
            qualifiers,
            expire_at: time(9),
            root_directory_digest: digest(10),
            references_blobs: vec![digest(11).unwrap()],
            references_directories: vec![digest(12).unwrap()],
            digest_function: 13,
        };
        assert_eq!(push_request(push.clone()), read_as(&push));
    }
}
