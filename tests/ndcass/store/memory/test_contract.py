from collections.abc import AsyncIterator

import numpy as np
import pytest

from ndcass.errors import CorruptValue, InvalidRequest
from ndcass.merge import WriteOp
from ndcass.store.base import StoredObject, Stores
from ndcass.store.memory import MemoryStores
from tests import store_contract as contract


class Opened:
    @pytest.fixture
    async def stores(self) -> AsyncIterator[Stores]:
        opened = MemoryStores()
        yield opened
        await opened.close()


class TestCuboids(Opened, contract.CuboidContract):
    async def test_writes_stay_rows_in_the_order_of_their_ids(self) -> None:
        stores = MemoryStores()
        async with stores.cuboids.batch() as one, stores.cuboids.batch() as other:
            await one.add([contract.write_of(contract.at(1), contract.full(1))])
            await other.add([contract.write_of(contract.at(1), contract.full(0), WriteOp.REPLACE)])
            await other.commit()
            await one.commit()
        [(_, rows)] = stores.cuboids.read_now([contract.at(1)])
        assert [row.op for row in rows] == [WriteOp.MERGE, WriteOp.REPLACE]
        assert not (await contract.voxels_at(stores, contract.at(1))).any()

    async def test_a_damaged_value_is_named_and_never_zeros(self) -> None:
        stores = MemoryStores()
        address = contract.at(1)
        noise = np.random.default_rng(1).integers(0, 1 << 16, contract.SHAPE).astype("<u2")
        await contract.store(stores, contract.write_of(address, noise))
        [row] = stores.cuboids.rows[address]
        damaged = bytearray(row.payload)
        damaged[-1] ^= 1
        stores.cuboids.rows[address] = [row._replace(payload=bytes(damaged))]
        with pytest.raises(CorruptValue, match="morton 1"):
            await contract.voxels_at(stores, address)
        [(found, reason)] = await stores.cuboids.verify([address])
        assert found == address
        assert "checksum" in reason


class TestStale(Opened, contract.StaleContract):
    pass


class TestCatalog(Opened, contract.CatalogContract):
    pass


class TestJobs(Opened, contract.JobsContract):
    pass


class TestObjects(Opened, contract.ObjectContract):
    async def test_fields_that_are_not_json_change_nothing(self) -> None:
        stores = MemoryStores()
        with pytest.raises(InvalidRequest, match="JSON"):
            await stores.objects.put(1, [StoredObject(1, {}), StoredObject(2, {"a": object()})])
        assert list(await stores.objects.get(1, [1, 2])) == []


class TestLabels(Opened, contract.LabelContract):
    pass


class TestRecords(Opened, contract.RecordContract):
    pass
