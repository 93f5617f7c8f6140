module knarr/conformance/agnhost

go 1.26
