//! Watches any program that uses KVM, VFIO or iommufd, from outside: `mini-vmm trace -- COMMAND`.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`decode`] | the fields of each ioctl; knows no process |

pub mod decode;
