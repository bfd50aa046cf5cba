SELECT l.code, z.kind, p.sku, p.name, lot.id AS lot, lot.expires_on, i.on_hand, i.reserved
  FROM location l
  JOIN zone z ON z.id = l.zone_id
  JOIN inventory i ON i.location_id = l.id
  JOIN lot ON lot.id = i.lot_id
  JOIN product p ON p.id = lot.product_id
 WHERE l.id = :location AND i.on_hand > 0
 ORDER BY p.sku, lot.id
