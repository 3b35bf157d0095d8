//! Remote Execution API messages: the generated types, and their way into values that cannot be wrong.
