//! Decides which worker runs which action: a pure core and its driver.
