// Package iam plays IBM Cloud IAM: the token service and the identity API (API keys, service IDs). Its
// subpackage access plays policy management and the decision who may do what.
package iam
