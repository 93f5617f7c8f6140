module knarr.dev/tests/clients/registry-front

go 1.26.0
