package pg

//go:generate sqlc generate
