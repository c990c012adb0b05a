module github.com/kmip-for-vmware/kmip/migrations

go 1.26.0
