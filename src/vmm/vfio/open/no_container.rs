//! Why /dev/vfio/vfio gives no container.

use std::fs::OpenOptions;

use vfio_bindings::bindings::vfio::VFIO_TYPE1v2_IOMMU;

use crate::vfio::open::error::StepError;
use crate::vfio::open::nodes;
use crate::vfio::uapi;

/// Why vfio-ioctls takes a node for no container. It drops the errno, so the call is made again.
pub(super) fn why(error: vfio_ioctls::VfioError) -> StepError {
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(nodes::CONTAINER)
    };
    match error {
        vfio_ioctls::VfioError::VfioApiVersion => {
            let answer = open().and_then(|node| uapi::api_version(&node));
            match answer {
                Err(e) => StepError::call("VFIO_GET_API_VERSION", e),
                Ok(_) => StepError::Library(error),
            }
        }
        vfio_ioctls::VfioError::VfioExtension => {
            let answer = open().and_then(|node| uapi::check_extension(&node, VFIO_TYPE1v2_IOMMU));
            match answer {
                Err(e) => StepError::call("VFIO_CHECK_EXTENSION", e),
                Ok(_) => StepError::NoType1,
            }
        }
        other => StepError::Library(other),
    }
}
