//! Who may do what: authenticators, RBAC, admission, put in force once the API can be read.
