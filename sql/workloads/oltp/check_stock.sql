SELECT w.code, sum(i.on_hand) AS on_hand, sum(i.reserved) AS reserved, min(lot.expires_on) AS first_expiry
  FROM product p
  JOIN lot ON lot.product_id = p.id
  JOIN inventory i ON i.lot_id = lot.id
  JOIN location l ON l.id = i.location_id
  JOIN zone z ON z.id = l.zone_id
  JOIN warehouse w ON w.id = z.warehouse_id
 WHERE p.id = :product
 GROUP BY w.code
 ORDER BY w.code
