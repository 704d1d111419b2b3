// The unmodified JavaScript SDK against a real server. One argument: what to
// run. JUDGE holds what the Go test made, as JSON. Each check is a line of JSON
// on standard output: {name, error}. NODE_PATH finds the SDK, NODE_EXTRA_CA_CERTS
// the private authority.
'use strict'
const assert = require('node:assert/strict')
const sdk = require('@keeper-security/secrets-manager-core')

const given = JSON.parse(process.env.JUDGE)
let current = ''

function say(name, error) {
  process.stdout.write(JSON.stringify({ name, error: error ? String(error.stack || error) : '' }) + '\n')
}

async function check(name, f) {
  current = name
  try {
    await f()
    say(name)
  } catch (e) {
    say(name, e)
  }
}

// refused expects the server's refusal with a code.
async function refused(code, f) {
  let error
  try {
    await f()
  } catch (e) {
    error = e
  }
  assert.ok(error, 'nothing was refused, want ' + code)
  assert.equal(JSON.parse(error.message).error, code)
}

const field = (record, type) => record.data.fields.find(f => f.type === type)
const password = record => field(record, 'password').value[0]

async function one(options, uid) {
  const { records } = await sdk.getSecrets(options, [uid])
  assert.equal(records.length, 1)
  return records[0]
}

const made = value => ({
  title: 'made by the SDK',
  type: 'login',
  fields: [{ type: 'login', value: ['ci'] }, { type: 'password', value: [value] }, { type: 'fileRef', value: [] }],
  custom: []
})

async function records(options) {
  await check('reads what is shared, and the application', async () => {
    const got = await sdk.getSecrets(options)
    assert.deepEqual(got.records.map(r => r.recordUid).sort(), [given.record, given.fixed, given.managed].sort())
    assert.deepEqual(got.appData, { title: 'ci', type: 'app' })
    assert.equal(password(got.records.find(r => r.recordUid === given.record)), 's3cret-1')
  })
  await check('filters by folder', async () => {
    const got = await sdk.getSecrets2(options, { foldersFilter: [given.readFolder] })
    assert.deepEqual(got.records.map(r => r.recordUid), [given.fixed])
  })
  await check('an unknown uid is an empty answer', async () => {
    assert.equal((await sdk.getSecrets(options, ['AAAAAAAAAAAAAAAAAAAAAA'])).records.length, 0)
  })
  await check('notation', async () => {
    const uid = given.record
    for (const [path, want] of [
      ['/field/password', 's3cret-1'], ['/field/url[1]', 'https://two'], ['/field/target[0][hostName]', 'db.example'],
      ['/custom_field/stage', 'blue'], ['/title', 'Build host'], ['/type', 'login'], ['/notes', 'n']
    ]) {
      assert.deepEqual(await sdk.getNotationResults(options, 'keeper://' + uid + path), [want], path)
    }
  })
  await check('updates, and a stale revision is refused', async () => {
    const record = await one(options, given.record)
    const stale = await one(options, given.record)
    field(record, 'password').value[0] = 'new'
    await sdk.updateSecret(options, record)
    const now = await one(options, given.record)
    assert.equal(password(now), 'new')
    assert.equal(now.revision, record.revision + 1)
    field(stale, 'password').value[0] = 'stale'
    await refused('out_of_sync', () => sdk.updateSecret(options, stale))
  })
  await check('does not update where it may only read', async () => {
    const record = await one(options, given.fixed)
    await refused('access_denied', () => sdk.updateSecret(options, record))
  })
  await check('a staged update is not read, rolled back, and finalized', async () => {
    const record = await one(options, given.record)
    field(record, 'password').value[0] = 'staged'
    await sdk.updateSecret(options, record, sdk.UpdateTransactionType.Rotation)
    assert.equal(password(await one(options, given.record)), 'new')
    await sdk.completeTransaction(options, given.record, true)
    assert.equal(password(await one(options, given.record)), 'new')
    await sdk.updateSecret(options, record, sdk.UpdateTransactionType.Rotation)
    await sdk.completeTransaction(options, given.record)
    const now = await one(options, given.record)
    assert.equal(password(now), 'staged')
    assert.equal(now.revision, record.revision + 1)
    await sdk.completeTransaction(options, given.record)
  })
  await check('opens no transaction on what agents rotate', async () => {
    const record = await one(options, given.managed)
    await refused('access_denied', () => sdk.updateSecret(options, record, sdk.UpdateTransactionType.Rotation))
  })
  await check('creates, and deletes with a status for each', async () => {
    const uid = await sdk.createSecret(options, given.editFolder, made('made'))
    assert.equal(password(await one(options, uid)), 'made')
    const got = await sdk.deleteSecret(options, [uid, given.managed, 'AAAAAAAAAAAAAAAAAAAAAA'])
    assert.deepEqual(got.records.map(r => r.responseCode), ['ok', 'access_denied', 'access_denied'])
    assert.equal((await sdk.getSecrets(options, [uid])).records.length, 0)
  })
}

async function folders(options) {
  await check('folders: create, nest, rename, list, use, delete', async () => {
    const top = await sdk.createFolder(options, { folderUid: given.editFolder }, 'top')
    const below = await sdk.createFolder(options, { folderUid: given.editFolder, subFolderUid: top }, 'below')
    await sdk.getFolders(options) // the SDK learns the new folders' keys here only
    await sdk.updateFolder(options, top, 'renamed')
    const list = new Map((await sdk.getFolders(options)).map(f => [f.folderUid, f]))
    assert.equal(list.size, 4)
    assert.equal(list.get(given.editFolder).name, 'edit')
    assert.ok(!list.get(given.editFolder).parentUid)
    assert.equal(list.get(top).name, 'renamed')
    assert.equal(list.get(top).parentUid, given.editFolder)
    assert.equal(list.get(below).parentUid, top)
    const uid = await sdk.createSecret2(options, { folderUid: given.editFolder, subFolderUid: below }, made('deep'))
    const record = await one(options, uid)
    assert.equal(record.innerFolderUid, below)
    assert.equal(record.folderUid, given.editFolder)
    let got = await sdk.deleteFolder(options, [top], false)
    assert.equal(got.folders[0].responseCode, 'not_empty')
    got = await sdk.deleteFolder(options, [top], true)
    assert.equal(got.folders[0].responseCode, 'ok')
    assert.equal((await sdk.getSecrets(options, [uid])).records.length, 0)
  })
}

async function files(options) {
  const data = Buffer.alloc(700000, 'configuration\n')
  await check('a file goes up and comes down, and its link is removed', async () => {
    const record = await one(options, given.record)
    const uid = await sdk.uploadFile(options, record, { name: 'app.conf', title: 'App', type: 'text/plain', data })
    let now = await one(options, given.record)
    assert.equal(now.files.length, 1)
    assert.equal(now.files[0].fileUid, uid)
    assert.equal(now.files[0].data.name, 'app.conf')
    assert.ok(data.equals(Buffer.from(await sdk.downloadFile(now.files[0]))))
    await sdk.updateSecret2(options, now, { links2Remove: [uid] })
    now = await one(options, given.record)
    assert.equal((now.files || []).length, 0)
  })
}

const throughOptions = storage => ({ storage, serverPublicKey: given.serverPublicKey, serverPublicKeyId: given.serverPublicKeyId })

const runs = {
  async configuration() {
    const options = { storage: sdk.inMemoryStorage(given.configuration) }
    await records(options)
    await folders(options)
    await files(options)
  },
  async token() {
    const storage = sdk.inMemoryStorage({})
    const options = throughOptions(storage)
    await check('redeems a one-time token', async () => {
      await sdk.initializeStorage(storage, given.token, given.host)
      const got = await sdk.getSecrets(options)
      assert.equal(got.records.length, 3)
      assert.ok(await storage.getString('appKey'))
      assert.ok(!(await storage.getString('clientKey')))
    })
    await check('goes on from the stored configuration', async () => {
      assert.equal((await sdk.getSecrets({ storage })).records.length, 3)
    })
    await check('the token is refused a second time', async () => {
      const again = sdk.inMemoryStorage({})
      await sdk.initializeStorage(again, given.token, given.host)
      await refused('access_denied', () => sdk.getSecrets(throughOptions(again)))
    })
    await check('creates with the owner key that came with the token', async () => {
      await sdk.getSecrets(options)
      const uid = await sdk.createSecret(options, given.editFolder, made('by token'))
      assert.equal(password(await one(options, uid)), 'by token')
    })
    await files(options)
  },
  // A run of its own: the SDK keeps one client's keys for the whole process.
  async lost() {
    await check('a lost binding answer is given again', async () => {
      const lost = sdk.inMemoryStorage({})
      await sdk.initializeStorage(lost, given.token, given.host)
      let cut = true
      const answer = { ...throughOptions(lost), queryFunction: async (...args) => {
        const got = await sdk.postFunction(...args)
        if (cut) {
          cut = false
          throw new Error('cut off')
        }
        return got
      } }
      await assert.rejects(() => sdk.getSecrets(answer), /cut off/)
      assert.equal((await sdk.getSecrets(answer)).records.length, 3)
    })
  },
  async throttle() {
    const options = { storage: sdk.inMemoryStorage(given.configuration) }
    await check('waits when it is throttled, and goes on', async () => {
      let waited = 0
      options.throttleSleep = async ms => {
        waited++
        await new Promise(r => setTimeout(r, ms))
      }
      for (let i = 0; i < 5; i++) await sdk.getSecrets(options, [given.record])
      assert.ok(waited > 0, 'it was never throttled')
    })
  },
  async key() {
    await check('without our key it draws the hint and says so', async () => {
      const { serverPublicKey, serverPublicKeyId, ...without } = given.configuration
      const storage = sdk.inMemoryStorage(without)
      await assert.rejects(() => sdk.getSecrets({ storage }), /100/)
      assert.equal(await storage.getString('serverPublicKeyId'), '100')
    })
    await check('with our key and no id it is served', async () => {
      const { serverPublicKeyId, ...without } = given.configuration
      assert.equal((await sdk.getSecrets({ storage: sdk.inMemoryStorage(without) })).records.length, 3)
    })
    await check('with another key it stops', async () => {
      const storage = sdk.inMemoryStorage({ ...given.configuration, serverPublicKey: given.otherKey, serverPublicKeyId: '99' })
      await assert.rejects(() => sdk.getSecrets({ storage }))
    })
  }
}

const run = runs[process.argv[2]]
if (!run) throw new Error('nothing to run: ' + process.argv[2])
run().catch(e => say(current || process.argv[2], e))
