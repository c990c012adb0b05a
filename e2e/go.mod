module github.com/kmip-for-vmware/kmip/e2e

go 1.26.0

require (
	github.com/kmip-for-vmware/kmip/api v0.0.0
	github.com/kmip-for-vmware/kmip/libs v0.0.0
	github.com/kmip-for-vmware/kmip/migrations v0.0.0
)

require (
	github.com/IBM/keyprotect-go-client v0.16.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/hashicorp/go-cleanhttp v0.5.2 // indirect
	github.com/hashicorp/go-retryablehttp v0.7.8 // indirect
	github.com/ovh/kmip-go v0.8.1 // indirect
	github.com/rogpeppe/go-internal v1.16.0 // indirect
)

replace (
	github.com/kmip-for-vmware/kmip/api => ../api
	github.com/kmip-for-vmware/kmip/libs => ../libs
	github.com/kmip-for-vmware/kmip/migrations => ../migrations
)
