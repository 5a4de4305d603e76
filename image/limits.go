package image

// Limits on documents, all of which come from outside. They are far above what real
// images hold, and low enough that a hostile document costs little to refuse.
const (
	// MaxManifest is the size of a manifest or an index in bytes: the limit that
	// registries of the distribution project set.
	MaxManifest = 4 << 20
	// MaxLayoutIndex is the size of the index.json of a layout in bytes; that of a
	// store has an entry of some 400 bytes for each name.
	MaxLayoutIndex = 16 << 20
	// MaxConfig is the size of a config in bytes.
	MaxConfig = 8 << 20
	// MaxLayers is the number of layers of one image. Docker stops at 127 and the
	// kernel's overlayfs at 500 directories; layerfs merges deep stacks, so neither
	// binds it.
	MaxLayers = 1000
	// MaxHistory is the number of history entries of one config: those with a layer
	// and those without.
	MaxHistory = 4 * MaxLayers
	// MaxManifests is the number of entries of one index of an image.
	MaxManifests = 1000
	// MaxLayoutEntries is the number of entries of the index.json of a layout.
	MaxLayoutEntries = 40_000
	// MaxIndexDepth is how deep an index may lie in indexes, the outermost being 1.
	MaxIndexDepth = 3
	// MaxBlob is the size that a descriptor may claim, in bytes.
	MaxBlob = 1 << 48
	// MaxJSONDepth is how deep arrays and objects may nest.
	MaxJSONDepth = 32
	// MaxJSONValues is the number of values and keys in one document.
	MaxJSONValues = 1 << 20
	// MaxMediaType is the length of a media type in bytes (RFC 6838: 127 + 1 + 127).
	MaxMediaType = 255
	// MaxRecord is the size of the record of one name in bytes.
	MaxRecord = 64 << 10
	// MaxChanges is the size of all change instructions together, in bytes.
	MaxChanges = 1 << 20
	// MaxPorts is the number of ports that one EXPOSE instruction may expand to.
	MaxPorts = 1 << 16
)
