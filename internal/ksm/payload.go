package ksm

// Operations of secrets-manager clients: the path's last element.
const (
	OpGetSecret    = "get_secret"
	OpGetFolders   = "get_folders"
	OpUpdateSecret = "update_secret"
	OpFinalize     = "finalize_secret_update"
	OpRollback     = "rollback_secret_update"
	OpCreateSecret = "create_secret"
	OpDeleteSecret = "delete_secret"
	OpCreateFolder = "create_folder"
	OpUpdateFolder = "update_folder"
	OpDeleteFolder = "delete_folder"
	OpAddFile      = "add_file"
)

// Head is what every request's payload begins with. Unknown fields are ignored:
// later SDKs send more.
type Head struct {
	ClientVersion string `json:"clientVersion"`
	ClientID      Bytes  `json:"clientId"`
	Ext           bool   `json:"ext"` // an agent's get_secret
}

// GetRequest is get_secret and get_folders. The server filters: no lists mean
// everything, two lists their union.
type GetRequest struct {
	PublicKey        Bytes `json:"publicKey"` // P-256 point: a binding request
	RequestedRecords UIDs  `json:"requestedRecords"`
	RequestedFolders UIDs  `json:"requestedFolders"`
	RequestLinks     bool  `json:"requestLinks"`
}

// UpdateRequest replaces a record's data, at once or, with a transaction type,
// staged.
type UpdateRequest struct {
	RecordUID       UID    `json:"recordUid"`
	Revision        int64  `json:"revision"`
	Data            Bytes  `json:"data"`
	TransactionType string `json:"transactionType"`
	LinksToRemove   UIDs   `json:"links2Remove"` // files to detach
}

// SettleUpdate is finalize_secret_update and rollback_secret_update.
type SettleUpdate struct {
	RecordUID UID `json:"recordUid"`
}

// CreateRequest makes a record. RecordKey, sealed to the application's owner, is
// not kept: the wrapping under the folder's key suffices.
type CreateRequest struct {
	RecordUID    UID   `json:"recordUid"`
	FolderUID    UID   `json:"folderUid"`
	SubFolderUID UID   `json:"subFolderUid"`
	FolderKey    Bytes `json:"folderKey"` // the record's key under the folder's, despite its name
	Data         Bytes `json:"data"`
}

// DeleteRequest deletes records.
type DeleteRequest struct {
	RecordUIDs UIDs `json:"recordUids"`
}

// CreateFolderRequest makes a sub-folder.
type CreateFolderRequest struct {
	FolderUID       UID   `json:"folderUid"`
	SharedFolderUID UID   `json:"sharedFolderUid"`
	ParentUID       UID   `json:"parentUid"`
	SharedFolderKey Bytes `json:"sharedFolderKey"` // the new folder's key, CBC under the root folder's
	Data            Bytes `json:"data"`
}

// UpdateFolderRequest renames a sub-folder.
type UpdateFolderRequest struct {
	FolderUID UID   `json:"folderUid"`
	Data      Bytes `json:"data"`
}

// DeleteFolderRequest deletes sub-folders.
type DeleteFolderRequest struct {
	FolderUIDs    UIDs `json:"folderUids"`
	ForceDeletion bool `json:"forceDeletion"`
}

// FileRequest attaches a file and replaces its record's data with it.
// FileRecordKey, sealed to the application's owner, is not kept.
type FileRequest struct {
	FileRecordUID       UID    `json:"fileRecordUid"`
	FileRecordData      Bytes  `json:"fileRecordData"`
	OwnerRecordUID      UID    `json:"ownerRecordUid"`
	OwnerRecordData     Bytes  `json:"ownerRecordData"`
	OwnerRecordRevision *int64 `json:"ownerRecordRevision"` // older SDKs send none
	LinkKey             Bytes  `json:"linkKey"`             // the file's key under the record's
	FileSize            int64  `json:"fileSize"`            // of the ciphertext
}

// GetAnswer answers get_secret and get_folders. Every key is there, with null
// where it is empty: one SDK requires them, one reads an empty string as a
// binding, one cannot read null as a number.
type GetAnswer struct {
	EncryptedAppKey   *string  `json:"encryptedAppKey"`
	AppOwnerPublicKey *string  `json:"appOwnerPublicKey"`
	AppData           string   `json:"appData"` // base64url; the others are standard
	Folders           []Folder `json:"folders"`
	Records           []Record `json:"records"`
	ExpiresOn         int64    `json:"expiresOn"` // Unix milliseconds; 0: never
	Warnings          []string `json:"warnings"`
}

// Folder is a root shared folder with all records below it, or in get_folders a
// folder of any depth without.
type Folder struct {
	FolderUID string   `json:"folderUid"`
	FolderKey string   `json:"folderKey"`
	Data      *string  `json:"data"`
	Parent    *string  `json:"parent"` // null, not "", for a root
	Records   []Record `json:"records"`
}

// Record is a record in an answer.
type Record struct {
	RecordUID      string   `json:"recordUid"`
	RecordKey      string   `json:"recordKey"`
	Data           string   `json:"data"`
	Revision       int64    `json:"revision"`
	IsEditable     bool     `json:"isEditable"`
	Files          []File   `json:"files"`
	InnerFolderUID *string  `json:"innerFolderUid"`
	Links          []string `json:"links"` // always null: Rotunda shares no links
}

// File is a file in an answer.
type File struct {
	FileUID      string  `json:"fileUid"`
	FileKey      string  `json:"fileKey"`
	Data         string  `json:"data"`
	URL          string  `json:"url"`
	ThumbnailURL *string `json:"thumbnailUrl"`
}

// DeletedRecords answers delete_secret.
type DeletedRecords struct {
	Records []DeletedRecord `json:"records"`
}

// DeletedRecord is one record's outcome: "ok", or an error's code.
type DeletedRecord struct {
	RecordUID    string `json:"recordUid"`
	ResponseCode string `json:"responseCode"`
	ErrorMessage string `json:"errorMessage"`
}

// DeletedFolders answers delete_folder.
type DeletedFolders struct {
	Folders []DeletedFolder `json:"folders"`
}

// DeletedFolder is one folder's outcome: "ok", or an error's code.
type DeletedFolder struct {
	FolderUID    string `json:"folderUid"`
	ResponseCode string `json:"responseCode"`
	ErrorMessage string `json:"errorMessage"`
}

// CodeOK is the outcome of what was deleted.
const CodeOK = "ok"

// FileAnswer answers add_file: where the client posts the contents.
type FileAnswer struct {
	URL               string `json:"url"`
	Parameters        string `json:"parameters"` // a JSON object of strings, as a string
	SuccessStatusCode int    `json:"successStatusCode"`
}
