//! What clients tell beside their requests.

use base64::{Engine as _, engine::DecodePaddingMode, engine::general_purpose as engines};
use bbb_reapi::{REQUEST_METADATA_HEADER, RequestMetadata};
use http::HeaderMap;

/// gRPC writes base64 without padding, and takes it with and without.
const BASE64: engines::GeneralPurpose = engines::GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    engines::GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Reads the header; one that is missing or cannot be read gives nothing.
pub(crate) fn of(headers: &HeaderMap) -> RequestMetadata {
    let header = headers.get(REQUEST_METADATA_HEADER);
    let bytes = header.and_then(|header| BASE64.decode(header.as_bytes()).ok());
    bytes.map(|bytes| RequestMetadata::decode(&bytes)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use bbb_reapi::proto::reapi;
    use prost::Message as _;

    use super::*;

    #[test]
    fn reads_it_with_and_without_padding() {
        let target_id = "//a:b".to_owned();
        let message = reapi::RequestMetadata { target_id, ..Default::default() }.encode_to_vec();
        for text in [engines::STANDARD.encode(&message), engines::STANDARD_NO_PAD.encode(&message)]
        {
            let headers = HeaderMap::from_iter([(
                REQUEST_METADATA_HEADER.parse().unwrap(),
                text.parse().unwrap(),
            )]);
            assert_eq!(of(&headers).target, "//a:b");
        }
        assert_eq!(of(&HeaderMap::new()), RequestMetadata::default());
    }
}
