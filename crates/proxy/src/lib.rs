//! The data plane and the embeddable router.
