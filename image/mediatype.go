package image

import (
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of Docker's image manifest version 2, schema 2
// (https://distribution.github.io/distribution/spec/manifest-v2-2/). Those of OCI are
// in the image-spec module.
const (
	DockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	DockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig       = "application/vnd.docker.container.image.v1+json"
	DockerLayer        = "application/vnd.docker.image.rootfs.diff.tar"
	DockerLayerGzip    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	DockerLayerZstd    = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	DockerForeignLayer = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

	dockerSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

const nondistributable = "application/vnd.oci.image.layer.nondistributable.v1.tar"

// IsIndex reports whether a media type is that of an index or a manifest list.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == DockerManifestList
}

// IsManifest reports whether a media type is that of a manifest.
func IsManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == DockerManifest
}

// IsConfig reports whether a media type is that of an image's config.
func IsConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == DockerConfig
}

// IsLayer reports whether a media type is that of a layer: a tar, compressed or not.
func IsLayer(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd,
		DockerLayer, DockerLayerGzip, DockerLayerZstd, DockerForeignLayer:
		return true
	}
	return mediaType == nondistributable || mediaType == nondistributable+"+gzip" || mediaType == nondistributable+"+zstd"
}

// ociMediaType returns the OCI name of a Docker media type, and any other as it is.
func ociMediaType(mediaType string) string {
	switch mediaType {
	case DockerManifest:
		return ocispec.MediaTypeImageManifest
	case DockerManifestList:
		return ocispec.MediaTypeImageIndex
	case DockerConfig:
		return ocispec.MediaTypeImageConfig
	case DockerLayer:
		return ocispec.MediaTypeImageLayer
	case DockerLayerGzip:
		return ocispec.MediaTypeImageLayerGzip
	case DockerLayerZstd:
		return ocispec.MediaTypeImageLayerZstd
	case DockerForeignLayer:
		return nondistributable + "+gzip"
	}
	return mediaType
}

// LayerMediaType returns the OCI media type of a layer from the first bytes of its
// blob, or "" for a compression that OCI has no name for. Six bytes are enough.
func LayerMediaType(prefix []byte) string {
	switch p := string(prefix); {
	case strings.HasPrefix(p, "\x1f\x8b"):
		return ocispec.MediaTypeImageLayerGzip
	case strings.HasPrefix(p, "\x28\xb5\x2f\xfd"):
		return ocispec.MediaTypeImageLayerZstd
	case strings.HasPrefix(p, "BZh"), strings.HasPrefix(p, "\xfd7zXZ\x00"):
		return ""
	}
	return ocispec.MediaTypeImageLayer
}
