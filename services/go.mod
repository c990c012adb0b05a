module github.com/kmip-for-vmware/kmip/services

go 1.26.0

require (
	github.com/kmip-for-vmware/kmip/api v0.0.0
	github.com/kmip-for-vmware/kmip/libs v0.0.0
	github.com/kmip-for-vmware/kmip/migrations v0.0.0
)

require (
	github.com/apapsch/go-jsonmerge/v2 v2.0.0 // indirect
	github.com/caarlos0/env/v11 v11.4.2 // indirect
	github.com/go-chi/chi/v5 v5.5.0 // indirect
	github.com/golang-jwt/jwt/v5 v5.3.1 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/oapi-codegen/runtime v1.8.0 // indirect
	go.etcd.io/bbolt v1.5.0 // indirect
	golang.org/x/sync v0.24.0
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/time v0.16.0
)

replace (
	github.com/kmip-for-vmware/kmip/api => ../api
	github.com/kmip-for-vmware/kmip/libs => ../libs
	github.com/kmip-for-vmware/kmip/migrations => ../migrations
)
