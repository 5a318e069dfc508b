//! Request-time decisions: which owner to try, what an attempt's outcome means, whether to retry or to hold.
//!
//! Pure: no sockets, no clock, no ambient randomness; `now` and random words are arguments. The data plane
//! (`ringway_proxy::serve`) asks in this order, once per attempt: [`mod@pick`] an owner, forward, take the
//! [`mod@verdict`] on what came of it; a retry asks the [`budget`], a hold asks for [`hold`] room. [`outlier`] advises
//! the pick, and every error a client sees is a [`Reason`].

pub mod budget;
pub mod hold;
pub mod outlier;
pub mod pick;
pub mod reason;
pub mod verdict;

pub use budget::{BudgetOptions, RetryBudget};
pub use hold::{HoldLimits, HoldRoom};
pub use outlier::{Outlier, OutlierOptions};
pub use pick::{Access, HealthView, Loads, Pick, Question, Tried, Why, pick};
pub use reason::Reason;
pub use verdict::{Outcome, Standing, Verdict, verdict};
